//! The host's side of a console's output: a file, and a count of the bytes that were lost.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::warn;

use crate::sync::lock;

pub mod timed;

/// How long output waits for a reader that accepts nothing. After that it is lost until the reader
/// accepts some again.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the lost output of one console or port. It outlives the device, which a reboot replaces.
#[derive(Debug, Default)]
pub struct Lost {
    name: String,
    bytes: AtomicU64,
    warned: AtomicBool,
    mid_line: AtomicBool,
}

impl Lost {
    /// A counter at 0. `name` is the user's name of the output.
    pub fn new(name: impl Into<String>) -> Lost {
        Lost { name: name.into(), ..Lost::default() }
    }

    /// The user's name of the output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the last byte that was written is not the end of a line.
    pub fn is_mid_line(&self) -> bool {
        self.mid_line.load(Ordering::Relaxed)
    }

    /// Bytes lost so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `bytes` that are lost because the reader accepts nothing.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` that are lost because they cannot be written. The first call logs a warning
    /// with the name and the error.
    pub fn failed(&self, bytes: u64, error: &io::Error) {
        self.add(bytes);
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "cannot write to {}: {error}; output is lost, the guest continues",
                self.name
            );
        }
    }
}

/// A file for output. It does not block, or is a regular file.
#[derive(Debug)]
pub struct Output {
    file: File,
    lost: Arc<Lost>,
    timeout: Duration,
    /// Since when the file has accepted nothing.
    full_since: Mutex<Option<Instant>>,
}

impl Output {
    /// Output to `file`; `lost` counts the bytes that it does not accept.
    pub fn new(file: File, lost: Arc<Lost>) -> Output {
        Output { file, lost, timeout: WRITE_TIMEOUT, full_since: Mutex::default() }
    }

    /// The same, with another timeout.
    #[cfg(test)]
    pub(crate) fn waiting(self, timeout: Duration) -> Output {
        Output { timeout, ..self }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The count of lost bytes.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Writes as many of `bytes` as the file accepts now. Returns how many were written or lost:
    /// all are lost on an error, or if the file has accepted nothing for [`WRITE_TIMEOUT`]. Returns
    /// `None` if the file accepts nothing now.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        match (&self.file).write(bytes) {
            Ok(count) => {
                *lock(&self.full_since) = None;
                if let Some(last) = bytes.get(..count).and_then(<[u8]>::last) {
                    self.lost.mid_line.store(*last != b'\n', Ordering::Relaxed);
                }
                return Some(count);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                let since = *lock(&self.full_since).get_or_insert_with(Instant::now);
                if since.elapsed() < self.timeout {
                    return None;
                }
                self.lost.add(bytes.len() as u64);
            }
            Err(error) => self.lost.failed(bytes.len() as u64, &error),
        }
        Some(bytes.len())
    }
}

impl From<File> for Output {
    fn from(file: File) -> Output {
        Output::new(file, Arc::new(Lost::new("a console")))
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    #[test]
    fn output_to_a_full_disk_is_lost_and_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Output::from(full);
        assert_eq!(output.write(b"lost"), Some(4));
        assert_eq!(output.write(b"too"), Some(3));
        assert_eq!(output.lost().bytes(), 7);
    }

    #[test]
    fn the_end_of_a_line_is_known() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let output = Output::from(null);
        for (text, mid_line) in [("", false), ("a", true), ("b\n", false), ("c\r", true)] {
            assert_eq!(output.write(text.as_bytes()), Some(text.len()));
            assert_eq!(output.lost().is_mid_line(), mid_line, "{text:?}");
        }
    }

    #[test]
    fn output_to_a_stopped_reader_waits_and_is_lost_after_the_timeout() {
        let (mut reader, pipe) = pipe().unwrap();
        fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
        let output = Output::from(File::from(OwnedFd::from(pipe))).waiting(Duration::MAX);
        let mut sent = 0;
        while let Some(count) = output.write(&[b'.'; 4096]) {
            sent += count;
        }
        assert_eq!(output.lost().bytes(), 0);
        let output = output.waiting(Duration::ZERO);
        assert_eq!(output.write(b"lost"), Some(4));
        assert_eq!(output.lost().bytes(), 4);
        reader.read_exact(&mut vec![0; sent]).unwrap();
        assert_eq!(output.write(b"on"), Some(2));
        assert_eq!(output.lost().bytes(), 4);
    }
}
