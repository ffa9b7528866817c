//! Bytes in transit between two files that do not block.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

/// Buffer size in bytes.
const SIZE: usize = 1 << 16;

/// A buffer that is filled only when it is empty.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// How many of them were written.
    sent: usize,
}

impl Buffer {
    /// Whether everything was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Drops the rest.
    pub(crate) fn clear(&mut self) {
        self.sent = self.bytes.len();
    }

    /// Reads from `from`. Returns the number of bytes, 0 at the end.
    ///
    /// # Errors
    /// Nothing can be read now, or `from` failed.
    pub(crate) fn fill(&mut self, mut from: &File) -> io::Result<usize> {
        self.bytes.resize(SIZE, 0);
        let got = from.read(&mut self.bytes);
        self.bytes.truncate(got.as_ref().map_or(0, |count| *count));
        self.sent = 0;
        got
    }

    /// Writes as much as `to` accepts.
    ///
    /// # Errors
    /// `to` failed.
    pub(crate) fn empty_into(&mut self, mut to: &File) -> io::Result<()> {
        while !self.is_empty() {
            match to.write(self.rest()) {
                Ok(count) => self.sent += count,
                Err(error) if is_temporary(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes as much as `write` accepts. It returns the number of bytes, or `None` to be called
    /// again later.
    pub(crate) fn empty_by(&mut self, mut write: impl FnMut(&[u8]) -> Option<usize>) {
        while !self.is_empty() {
            match write(self.rest()) {
                Some(count) => self.sent += count,
                None => return,
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// Whether a call may succeed later.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
