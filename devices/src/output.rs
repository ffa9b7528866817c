//! The host's side of a console's output: a file, and a count of the bytes that it did not take.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::warn;

use crate::sync::lock;

pub mod timed;

/// How long output waits for a reader that takes nothing. After that it is lost, until the reader
/// takes some again.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the output of one console or port that is lost. It outlives the devices of a guest that
/// reboots.
#[derive(Debug, Default)]
pub struct Lost {
    name: String,
    bytes: AtomicU64,
    warned: AtomicBool,
}

impl Lost {
    /// Nothing is lost yet. `name` is how the user names the output.
    pub fn new(name: impl Into<String>) -> Lost {
        Lost {
            name: name.into(),
            ..Lost::default()
        }
    }

    /// How the user names the output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes lost so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// `bytes` are lost: their reader takes nothing.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` are lost since they cannot be written. The first call logs a warning with the name and the reason.
    pub fn failed(&self, bytes: u64, error: &io::Error) {
        self.add(bytes);
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "cannot write to {}: {error}; output is lost, the guest goes on",
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
    /// Since when the file has taken nothing.
    full_since: Mutex<Option<Instant>>,
}

impl Output {
    /// Output to `file`; `lost` counts what it does not take.
    pub fn new(file: File, lost: Arc<Lost>) -> Output {
        Output {
            file,
            lost,
            timeout: WRITE_TIMEOUT,
            full_since: Mutex::default(),
        }
    }

    /// The same, which waits for its reader for so long instead.
    #[cfg(test)]
    pub(crate) fn waiting(self, timeout: Duration) -> Output {
        Output { timeout, ..self }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The count of bytes that the file did not take.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Writes the first of `bytes`, without waiting. Returns how many are written or lost: all are
    /// lost on an error, or when the file has taken nothing for [`WRITE_TIMEOUT`]. `None`: the file
    /// has no room now.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        match (&self.file).write(bytes) {
            Ok(count) => {
                *lock(&self.full_since) = None;
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
    fn a_full_disk_loses_all_and_stops_nothing() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Output::from(full);
        assert_eq!(output.write(b"lost"), Some(4));
        assert_eq!(output.write(b"too"), Some(3));
        assert_eq!(output.lost().bytes(), 7);
    }

    #[test]
    fn a_reader_that_takes_nothing_is_waited_for_and_then_given_up() {
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
