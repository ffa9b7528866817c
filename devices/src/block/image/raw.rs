//! Raw images: a file or a block device that holds the disk byte for byte.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, fcntl_getfl, statx};
use rustix::io::Errno;

use super::Geometry;
use crate::block::SECTOR;
use crate::virtio::chain::{Readable, Writable};

/// Size of the bounce buffer, in bytes.
const BOUNCE: usize = 64 * 1024;

/// Bytes per pwritev(2) to the page cache. Before Linux 6.12 copies a page, it faults in the rest
/// of the source, up to the size of a large folio. A pwritev of 256 single pages spends two thirds
/// of its time on that.
const SLICE: usize = 64 * 1024;

impl Geometry {
    /// The geometry that the host reports for `file`.
    fn of(file: &File) -> Geometry {
        let metadata = file.metadata();
        let unit = Direct::of(file).map_or(512, |direct| direct.offset);
        let block_device = metadata
            .as_ref()
            .ok()
            .filter(|it| it.file_type().is_block_device());
        if let Some(metadata) = block_device {
            return Geometry::of_device(metadata.rdev(), unit);
        }
        let block = metadata.map_or(0, |it| it.blksize());
        let block = u32::try_from(block).unwrap_or(0);
        let block = if block.is_power_of_two() { block } else { 4096 }.max(512);
        Geometry {
            logical: 512,
            unit,
            // A file system's blocks may be larger than the guest's pages, which have 4 KiB.
            physical: block.min(4096).max(unit),
            minimum: block,
            optimal: 0,
            discard: block,
            discards: punches(file),
        }
    }

    /// The geometry of a block device. The physical block size is at least `unit`; the driver's
    /// logical block size does not depend on the host's.
    fn of_device(rdev: u64, unit: u32) -> Geometry {
        let limit = |name| queue_limit(rdev, name).unwrap_or(0);
        Geometry {
            logical: 512,
            unit,
            physical: limit("physical_block_size").max(unit),
            minimum: limit("minimum_io_size"),
            optimal: limit("optimal_io_size"),
            discard: limit("discard_granularity"),
            discards: limit("discard_max_bytes") > 0,
        }
    }
}

/// A limit of a block device's queue, from sysfs. A partition has the limits of its disk.
fn queue_limit(rdev: u64, name: &str) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let device = format!("/sys/dev/block/{major}:{minor}");
    let text = [
        format!("{device}/queue/{name}"),
        format!("{device}/../queue/{name}"),
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok())?;
    let value: u64 = text.trim().parse().ok()?;
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Whether the file system can punch holes. Tried past the end of the file, where it does no harm.
fn punches(file: &File) -> bool {
    let end = file.metadata().map_or(0, |metadata| metadata.len());
    allocate(file, PUNCH, end, 4096).is_ok_and(|done| done)
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// One fallocate(2); false if the file does not support it.
fn allocate(file: &File, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
    loop {
        return match fallocate(file, mode, offset, len) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            // INVAL: the range is not aligned to the logical blocks of a block device.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// A raw image.
pub(super) struct Raw {
    file: File,
    /// The logical block size of a block device in bytes; `None` for a file.
    device_block: Option<u64>,
    geometry: Geometry,
    /// The alignment for direct I/O; `None` without O_DIRECT.
    direct: Option<Direct>,
    bounce: Bounce,
}

impl Raw {
    pub(super) fn new(file: File) -> Raw {
        let metadata = file.metadata();
        let direct = Direct::of(&file);
        let block_device = metadata.ok().filter(|it| it.file_type().is_block_device());
        Raw {
            device_block: block_device.map(|it| {
                let block = queue_limit(it.rdev(), "logical_block_size").unwrap_or(0);
                u64::from(block.max(512))
            }),
            geometry: Geometry::of(&file),
            bounce: Bounce::new(direct.unwrap_or(Direct::NONE)),
            direct,
            file,
        }
    }

    /// Seeks to the end, as a block device has no length in its metadata. Nothing uses the file's
    /// position.
    pub(super) fn size(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn read(&mut self, out: &mut Writable, offset: u64) -> io::Result<()> {
        match self.direct {
            Some(direct) if !direct.suits(offset, |to| out.is_aligned(to)) => {
                self.bounce.read(&self.file, out, offset)
            }
            _ => out.read_exact_at(self.file.as_fd(), offset),
        }
    }

    pub(super) fn write(&mut self, data: &mut Readable, offset: u64) -> io::Result<()> {
        match self.direct {
            Some(direct) if !direct.suits(offset, |to| data.is_aligned(to)) => {
                let len = data.len();
                let fill = |buffer: &mut [u8]| {
                    data.read(buffer);
                };
                self.bounce.write(&self.file, offset, len, fill)
            }
            Some(_) => data.write_all_at(self.file.as_fd(), offset, None),
            None => data.write_all_at(self.file.as_fd(), offset, Some(SLICE)),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.device_block {
            Some(block) => discard_blocks(&self.file, offset, len, block),
            None => allocate(&self.file, PUNCH, offset, len).map(drop),
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        // A punched range reads as zeroes, on a block device too.
        if unmap && self.geometry.discards && allocate(&self.file, PUNCH, offset, len)? {
            return Ok(());
        }
        if allocate(&self.file, FallocateFlags::ZERO_RANGE, offset, len)? {
            return Ok(());
        }
        self.bounce
            .write(&self.file, offset, len, |buffer| buffer.fill(0))
    }
}

/// Discards the whole blocks of a block device within the range.
fn discard_blocks(file: &File, offset: u64, len: u64, block: u64) -> io::Result<()> {
    /// `_IO(0x12, 119)`. The argument is two u64: offset and length in bytes.
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let start = offset.next_multiple_of(block);
    let end = offset + len - (offset + len) % block;
    if start >= end {
        return Ok(());
    }
    let range = [start, end - start];
    #[expect(unsafe_code, reason = "there is no safe wrapper for this ioctl")]
    // SAFETY: the ioctl reads two 64-bit words, which `range` holds.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        error => Err(error),
    }
}

/// The alignment that direct I/O requires: bytes, powers of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct {
    /// Of buffers.
    memory: u32,
    /// Of file offsets and lengths, at least a sector.
    offset: u32,
}

impl Direct {
    /// No requirements.
    const NONE: Direct = Direct { memory: 1, offset: 1 };

    /// The requirements of `file`, if it was opened with O_DIRECT.
    fn of(file: &File) -> Option<Direct> {
        let flags = fcntl_getfl(file).ok()?;
        flags.contains(OFlags::DIRECT).then(|| {
            // Linux before 6.1 does not report them; alignment to a page is always enough.
            let rdev = file.metadata().map_or(0, |metadata| metadata.rdev());
            Direct::reported(file).unwrap_or(Direct {
                memory: 4096,
                offset: queue_limit(rdev, "logical_block_size").unwrap_or(4096),
            })
        })
    }

    /// The requirements that statx(2) reports.
    fn reported(file: &File) -> Option<Direct> {
        let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
        let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
        let sane = memory.is_power_of_two()
            && offset.is_power_of_two()
            && memory as usize <= BOUNCE
            && offset as usize <= BOUNCE;
        (known && sane).then(|| Direct { memory, offset: offset.max(512) })
    }

    /// Whether a request meets the requirements.
    fn suits(self, offset: u64, buffers: impl Fn((u32, u32)) -> bool) -> bool {
        offset.is_multiple_of(self.offset.into()) && buffers((self.memory, self.offset))
    }
}

/// The unit of an image's length, in bytes: a sector, or more with O_DIRECT.
pub fn granularity(file: &File) -> u64 {
    Direct::of(file).map_or(SECTOR, |direct| direct.offset.into())
}

/// A bounce buffer for requests that are not aligned for direct I/O, and for zeroes.
struct Bounce {
    align: Direct,
    /// Allocated when first used, with room to start at an aligned address.
    memory: Vec<u8>,
}

impl Bounce {
    fn new(align: Direct) -> Bounce {
        let memory = Vec::new();
        Bounce { align, memory }
    }

    /// The first `len` bytes, at an aligned address; `len` is at most [`BOUNCE`].
    fn buffer(&mut self, len: usize) -> io::Result<&mut [u8]> {
        let align = self.align.memory as usize;
        if self.memory.is_empty() {
            self.memory = vec![0; BOUNCE + align];
        }
        let start = self.memory.as_ptr().align_offset(align);
        let buffer = self
            .memory
            .get_mut(start..)
            .and_then(|it| it.get_mut(..len));
        buffer.ok_or(ErrorKind::OutOfMemory.into())
    }

    /// The first part of a transfer of `len` bytes at `offset`: the bytes before it in its first
    /// block, the bytes of it that fit into the buffer, and the length in whole blocks of both.
    fn window(&self, offset: u64, len: u64) -> (usize, usize, usize) {
        let block = u64::from(self.align.offset);
        let before = usize::try_from(offset % block).unwrap_or(0);
        let room = BOUNCE - before;
        let part = usize::try_from(len).map_or(room, |len| len.min(room));
        let whole = (before + part).next_multiple_of(self.align.offset as usize);
        (before, part, whole)
    }

    fn read(&mut self, file: &File, out: &mut Writable, mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            let (before, part, whole) = self.window(offset, out.len());
            let buffer = self.buffer(whole)?;
            let got = retry(|| file.read_at(buffer, offset - before as u64))?;
            let data = buffer.get(before..got.min(before + part));
            match out.write(data.unwrap_or_default()) {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => offset += count as u64,
            }
        }
        Ok(())
    }

    /// Writes `len` bytes at `offset`, which `fill` supplies in order. A block that is written in
    /// part is read first. Nothing else writes to the disk in between.
    fn write(
        &mut self,
        file: &File,
        mut offset: u64,
        mut len: u64,
        mut fill: impl FnMut(&mut [u8]),
    ) -> io::Result<()> {
        while len > 0 {
            let (before, part, whole) = self.window(offset, len);
            let start = offset - before as u64;
            let buffer = self.buffer(whole)?;
            if part < whole {
                file.read_exact_at(buffer, start)?;
            }
            if let Some(part) = buffer.get_mut(before..before + part) {
                fill(part);
            }
            file.write_all_at(buffer, start)?;
            offset += part as u64;
            len -= part as u64;
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "raw_test.rs"]
mod tests;
