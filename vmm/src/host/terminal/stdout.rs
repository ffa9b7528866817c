//! Stdout as a back end of the consoles: a descriptor that never blocks, whatever stdout is.
//!
//! ```text
//!   file                      written directly
//!   terminal, pipe            through an open file description of our own, non-blocking
//!   socket, or a terminal     consoles ──▶ socket pair ──▶ thread ──▶ stdout
//!   or pipe of another user
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use devices::output::timed::{self, TimedWriter};
use devices::output::{Lost, WRITE_TIMEOUT};

/// Stdout while the guest uses it. Dropping this writes the last output, as far as the reader
/// accepts it within twice [`WRITE_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Stdout {
    /// The consoles write to this.
    pub(super) output: File,
    _relay: Option<Relay>,
}

#[derive(Debug)]
struct Relay {
    consoles: UnixStream,
    /// Closed when the thread ends.
    ended: Receiver<()>,
}

impl Stdout {
    /// Opens stdout. `lost` counts output that its reader does not accept.
    pub(super) fn open(lost: &Arc<Lost>) -> io::Result<Stdout> {
        let stdout = io::stdout();
        let shared = File::from(stdout.as_fd().try_clone_to_owned()?);
        let kind = shared.metadata()?.file_type();
        let may_block = kind.is_fifo() || kind.is_char_device() || kind.is_socket();
        let output = match timed::reopen(stdout.as_fd()) {
            _ if !may_block => shared,
            Ok(own) => own,
            Err(_) => return Stdout::relayed(TimedWriter::new(stdout.as_fd())?, lost),
        };
        Ok(Stdout { output, _relay: None })
    }

    fn relayed(to: TimedWriter, lost: &Arc<Lost>) -> io::Result<Stdout> {
        let (consoles, from) = UnixStream::pair()?;
        consoles.set_nonblocking(true)?;
        let output = OwnedFd::from(consoles.try_clone()?).into();
        let (end, ended) = channel();
        let lost = Arc::clone(lost);
        Builder::new()
            .name("stdout".into())
            .spawn(move || carry(from, to, &lost, end))?;
        Ok(Stdout { output, _relay: Some(Relay { consoles, ended }) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The thread reads the end of file after the last output.
        let _ = self.consoles.shutdown(Shutdown::Write);
        let _ = self.ended.recv_timeout(2 * WRITE_TIMEOUT);
    }
}

/// Copies the consoles' output to `to` until its end. Output that the reader does not accept in
/// time is lost.
fn carry(mut from: UnixStream, mut to: TimedWriter, lost: &Lost, _end: Sender<()>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    match error.kind() {
                        ErrorKind::TimedOut => lost.add(rest.len() as u64),
                        _ => lost.failed(rest.len() as u64, &error),
                    }
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    #[test]
    fn a_reader_that_takes_nothing_stops_neither_the_guest_nor_the_end() {
        let (_reader, stdout) = UnixStream::pair().unwrap();
        let lost = Arc::new(Lost::new("stdout"));
        let to = TimedWriter::new(stdout.as_fd()).unwrap();
        let mut stdout = Stdout::relayed(to, &lost).unwrap();
        let mut sent = 0;
        // More than all buffers hold, so the rest is lost and counted.
        while lost.bytes() == 0 {
            match stdout.output.write(&[b'.'; 4096]) {
                Ok(count) => sent += count as u64,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        drop(stdout);
        assert!(lost.bytes() < sent);
    }

    #[test]
    fn what_a_reader_takes_arrives_whole() {
        let (mut reader, pipe) = pipe().unwrap();
        let lost = Arc::new(Lost::new("stdout"));
        let to = TimedWriter::new(pipe.as_fd()).unwrap();
        drop(pipe);
        let mut stdout = Stdout::relayed(to, &lost).unwrap();
        let taker = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let bytes: Vec<_> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stdout.output.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        drop(stdout);
        assert!(taker.join().unwrap().unwrap() == bytes);
        assert_eq!(lost.bytes(), 0);
    }
}
