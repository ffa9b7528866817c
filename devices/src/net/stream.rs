//! A stream socket as a back end: each frame comes after its length, 32 bits, big-endian. This is
//! spoken by passt(1), and by QEMU's `-netdev stream`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{BackEnd, FRAME_MAX, HEADER, WRITABLE};
use crate::memory::{Readable, Writable};
use crate::virtio::Ready;

/// Bytes of the length before a frame.
const LENGTH: usize = 4;

/// The longest frame without a header.
const FRAME: usize = FRAME_MAX - HEADER;

/// Bytes that are read at once: the longest frame with its length. With more, the beginning of
/// another long frame would be read, and moved, each time.
const BUFFER: usize = LENGTH + FRAME;

/// One end of the connection. It is shared by the devices that use it one after another, since a
/// frame may be transferred in part when the guest resets.
#[derive(Debug, Clone)]
pub struct Stream {
    socket: Arc<UnixStream>,
    /// A duplicate: an epoll set has each descriptor once.
    writer: Arc<OwnedFd>,
    frames: Arc<Mutex<Frames>>,
}

/// What was read from the socket and not yet received, and what was sent and not yet written.
#[derive(Debug)]
struct Frames {
    read: Box<[u8]>,
    /// The bytes from `begin` to `end` of `read` are not yet received.
    begin: usize,
    end: usize,
    /// The end of a frame. At most one frame is kept.
    unwritten: Vec<u8>,
}

impl Stream {
    /// A connected socket. It is made non-blocking.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(socket: UnixStream) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        let writer = socket.as_fd().try_clone_to_owned()?;
        Ok(Stream {
            socket: Arc::new(socket),
            writer: Arc::new(writer),
            frames: Arc::new(Mutex::new(Frames {
                read: vec![0; BUFFER].into_boxed_slice(),
                begin: 0,
                end: 0,
                unwritten: Vec::new(),
            })),
        })
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl BackEnd for Stream {
    fn offloads(&self) -> u64 {
        0
    }

    fn set_offloads(&mut self, _: u64) {}

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![
            (self.socket.as_fd(), Ready::Read),
            (self.writer.as_fd(), Ready::Write),
        ]
    }

    fn ready(&mut self, index: usize) -> Option<bool> {
        if index == WRITABLE {
            // An error is reported by the next frame.
            let _ = self.frames().flush(&self.socket);
        }
        None
    }

    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize> {
        let mut frames = self.frames();
        let frame = frames.next(&self.socket)?;
        to.write(&[0; HEADER]);
        let here = to.write(frame);
        let left = frame.get(here..).unwrap_or_default();
        if let Some(rest) = rest.get_mut(..left.len()) {
            rest.copy_from_slice(left);
        }
        Ok(HEADER + frame.len())
    }

    /// Takes each frame whole: what the socket does not accept is kept. Before it is written, no
    /// further frame is taken.
    fn send(&mut self, frame: &mut Readable) -> io::Result<()> {
        let mut frames = self.frames();
        frames.flush(&self.socket)?;
        let length = frame.len().saturating_sub(HEADER as u64);
        let length = u32::try_from(length)
            .ok()
            .filter(|it| *it as usize <= FRAME);
        let (Some(length), Some([0, 0, ..])) = (length, frame.take::<HEADER>()) else {
            // Too long, or with an offload that was not offered.
            return Err(io::ErrorKind::InvalidData.into());
        };
        let length = length.to_be_bytes();
        let written = match frame.write_after(&length, self.socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        frames
            .unwritten
            .extend(length.get(written..).unwrap_or_default());
        if !frame.is_empty() {
            let kept = frames.unwritten.len();
            let left = usize::try_from(frame.len()).unwrap_or(0);
            frames.unwritten.resize(kept + left, 0);
            frame.read(frames.unwritten.get_mut(kept..).unwrap_or_default());
        }
        Ok(())
    }

    /// The other end has closed the connection.
    fn is_gone(&self, error: &io::Error) -> bool {
        error.kind() != io::ErrorKind::InvalidData
    }
}

impl Frames {
    /// Returns the next frame.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `InvalidData`: this is no stream of frames. Another one: the
    /// connection has ended.
    fn next(&mut self, socket: &UnixStream) -> io::Result<&[u8]> {
        loop {
            let unread = self.read.get(self.begin..self.end).unwrap_or_default();
            if let Some((length, rest)) = unread.split_first_chunk::<LENGTH>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > FRAME {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a frame of {length} bytes came, the longest has {FRAME}"),
                    ));
                }
                if length <= rest.len() {
                    let at = self.begin + LENGTH;
                    self.begin = at + length;
                    return Ok(self.read.get(at..self.begin).unwrap_or_default());
                }
            }
            self.read.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            let space = self.read.get_mut(self.end..).unwrap_or_default();
            match rustix::io::read(socket, space) {
                Ok(0) => {
                    let closed = "the other end has closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, closed));
                }
                Ok(count) => self.end += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the frame that was not written whole.
    fn flush(&mut self, socket: &UnixStream) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match rustix::io::write(socket, &self.unwritten) {
                Ok(count) => drop(self.unwritten.drain(..count)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "stream_test.rs"]
mod tests;
