//! Output with a time limit, to a reader that may be slow or stopped: a pipe, socket or terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

use super::WRITE_TIMEOUT;

/// Maximum bytes per write to a descriptor that may block: POSIX guarantees this much space in a
/// pipe that is ready.
const AT_ONCE: usize = 4096;

/// A writer that waits at most [`WRITE_TIMEOUT`] for its reader. After a timeout each write fails
/// at once with `TimedOut`, until there is space again.
///
/// `O_NONBLOCK` belongs to the open file description, which other processes may share (the user's
/// shell, another program in the pipeline). It is never changed here.
#[derive(Debug)]
pub struct TimedWriter {
    file: File,
    mode: Mode,
    stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A write never blocks: a file, or a non-blocking description of our own.
    Direct,
    /// A socket, where a flag makes each call non-blocking.
    Socket,
    /// Anything else: poll for space before each write.
    Polled,
}

impl TimedWriter {
    /// Creates a writer for an open descriptor that other processes may share.
    ///
    /// # Errors
    /// The descriptor is closed, or the host has none left.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<TimedWriter> {
        let shared = File::from(fd.try_clone_to_owned()?);
        let kind = shared.metadata()?.file_type();
        let (file, mode) = if kind.is_socket() {
            (shared, Mode::Socket)
        } else if !(kind.is_fifo() || kind.is_char_device()) || is_nonblocking(&shared) {
            (shared, Mode::Direct)
        } else {
            match reopen(fd) {
                Ok(own) => (own, Mode::Direct),
                Err(_) => (shared, Mode::Polled),
            }
        };
        Ok(TimedWriter { file, mode, stopped: false })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.mode {
            Mode::Direct => (&self.file).write(bytes),
            Mode::Socket => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(&self.file, bytes, flags)?)
            }
            Mode::Polled if self.has_room(Duration::ZERO) => {
                (&self.file).write(bytes.get(..AT_ONCE).unwrap_or(bytes))
            }
            Mode::Polled => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until there is space or the other end is closed.
    fn has_room(&self, limit: Duration) -> bool {
        let timeout = Timespec::try_from(limit).unwrap_or_default();
        let mut room = [PollFd::new(&self.file, PollFlags::OUT)];
        poll(&mut room, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}

impl Write for TimedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.stopped || !self.has_room(WRITE_TIMEOUT) {
                        self.stopped = true;
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                other => {
                    self.stopped = false;
                    return other;
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for TimedWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether writes to `file` fail with `WouldBlock` instead of blocking.
pub(crate) fn is_nonblocking(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Opens the pipe or device behind `fd` again, for non-blocking writes through a new open file
/// description.
///
/// # Errors
/// It belongs to another user, or is a socket.
pub fn reopen(fd: BorrowedFd<'_>) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens a file for output and truncates it. Neither this nor writes to anything but a regular file
/// block: a FIFO without a reader buffers what it can.
pub fn create(path: &Path) -> io::Result<File> {
    // Opening a FIFO only for writing waits for a reader, or fails if non-blocking (fifo(7)).
    let is_fifo = path
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_fifo());
    OpenOptions::new()
        .write(true)
        .create(!is_fifo)
        .truncate(true)
        .read(is_fifo)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

#[cfg(test)]
#[path = "timed_test.rs"]
mod tests;
