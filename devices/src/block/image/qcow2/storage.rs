//! The file of an image as imago uses it. It protects the header.
//!
//! With damaged tables or refcounts, imago (0.2.6) may treat the first cluster as free, and
//! overwrite the header. Offset 0 also means "none" in its tables. So a refcount block in the first
//! cluster would be allocated again and again, recursively, until the stack overflows.

use std::fmt::{self, Display, Formatter};
use std::io;

use imago::Storage;
use imago::file::File;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use super::header::{Header, START};
use super::refused;

/// A file that may have a header.
#[derive(Debug)]
pub(super) struct Guarded {
    file: File,
    /// The start of the header, and the bytes of its cluster.
    header: Option<([u8; START], u64)>,
}

impl Guarded {
    /// The file of a qcow2 image.
    pub(super) fn image(file: File, header: &Header) -> Guarded {
        Guarded { file, header: Some((header.start, header.cluster.into())) }
    }

    /// A file without a header.
    pub(super) fn plain(file: File) -> Guarded {
        Guarded { file, header: None }
    }

    /// The start of the header, if a write at `offset` would change it.
    fn protected(&self, offset: u64) -> Option<[u8; START]> {
        self.header
            .filter(|(_, cluster)| offset < *cluster)
            .map(|(start, _)| start)
    }

    /// Refuses a change without data at `offset`.
    fn check(&self, offset: u64) -> io::Result<()> {
        match self.protected(offset) {
            None => Ok(()),
            Some(_) => Err(overwritten()),
        }
    }

    /// Refuses `data` for the first cluster unless it is this image's header. imago writes that to
    /// move a table.
    fn check_data<'a>(&self, data: IoVector<'a>, offset: u64) -> io::Result<IoVector<'a>> {
        let Some(mut start) = self.protected(offset) else {
            return Ok(data);
        };
        let parts = data.into_inner();
        let mut written = parts.iter().flat_map(|part| part.iter().copied());
        for (index, byte) in start.iter_mut().enumerate() {
            let same = written.next() == Some(*byte);
            // imago may move the name of the backing file.
            if !(same || (8..20).contains(&index)) || offset != 0 {
                return Err(overwritten());
            }
        }
        drop(written);
        Ok(parts.into())
    }
}

fn overwritten() -> io::Error {
    refused("the image is damaged: its tables or refcounts say that its header is free")
}

#[expect(
    unsafe_code,
    reason = "imago's methods, whose callers check the alignment"
)]
impl Storage for Guarded {
    fn mem_align(&self) -> usize {
        self.file.mem_align()
    }

    fn req_align(&self) -> usize {
        self.file.req_align()
    }

    fn zero_align(&self) -> usize {
        self.file.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.file.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    unsafe fn pure_readv(&self, to: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        // SAFETY: the same contract, for the same file.
        unsafe { self.file.pure_readv(to, offset) }
    }

    unsafe fn pure_writev(&self, data: IoVector<'_>, offset: u64) -> io::Result<()> {
        let data = self.check_data(data, offset)?;
        // SAFETY: the same contract, for the same file; `data` has the same parts.
        unsafe { self.file.pure_writev(data, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset)?;
        // SAFETY: the same contract, for the same file.
        unsafe { self.file.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset)?;
        // SAFETY: the same contract, for the same file.
        unsafe { self.file.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset)?;
        // SAFETY: the same contract, for the same file.
        unsafe { self.file.pure_discard(offset, length) }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn settle_writes(&self) -> io::Result<()> {
        self.file.settle_writes()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: the same contract, for the same file.
        unsafe { self.file.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.file.get_storage_helper()
    }
}

impl Display for Guarded {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        self.file.fmt(to)
    }
}
