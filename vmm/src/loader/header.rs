//! Reads the header of a kernel file, and reports files that are too short or invalid.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::KernelError;
use crate::error::Error;
use crate::host::files::FileError;

/// A kernel file whose header is read.
pub(super) struct Headed<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    /// Size of the file in bytes.
    pub(super) length: u64,
}

impl Headed<'_> {
    /// Reads the first `N` bytes. Errors call them `what`.
    ///
    /// # Errors
    /// The file is shorter, or cannot be read.
    pub(super) fn read<const N: usize>(&self, what: &str) -> Result<[u8; N], Error> {
        if self.length < N as u64 {
            return Err(self.truncated(what, N as u64));
        }
        let mut bytes = [0; N];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(bytes),
            Err(source) => Err(FileError::read("kernel", self.path)(source)),
        }
    }

    /// Returns the error of a file that ends before byte `end`, the end of `part`.
    pub(super) fn truncated(&self, part: &str, end: u64) -> Error {
        Error::from(KernelError::Truncated {
            path: self.path.into(),
            part: part.into(),
            end,
            length: self.length,
        })
    }

    /// Returns the error of an invalid header.
    pub(super) fn wrong(&self, problem: String) -> Error {
        FileError::content("kernel", self.path, problem)
    }
}
