//! A file or a block device that is the disk, byte for byte: what it can do, and how it is reached.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, fcntl_getfl, statx};
use rustix::io::Errno;

use super::Geometry;
use crate::block::SECTOR;
use crate::virtio::chain::{Readable, Writable};

/// Bytes copied at once where the driver's own buffers cannot be used.
const BOUNCE: usize = 64 * 1024;

/// Bytes written at once to the page cache. For each page that it copies, Linux 6.12 first makes sure that all the rest can be
/// read, as far as a large folio goes: a pwritev of 256 single pages spends two thirds of its time on that.
const SLICE: usize = 64 * 1024;

impl Geometry {
    /// What the host says of `file`.
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
            // A file system's blocks may be larger, but no guest's page is.
            physical: block.min(4096).max(unit),
            minimum: block,
            optimal: 0,
            discard: block,
            discards: punches(file),
        }
    }

    /// The host's logical block size is the least physical one: the driver's is its own matter.
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

/// What the kernel says of a block device's queue; a partition has its disk's.
fn queue_limit(rdev: u64, name: &str) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let text = [
        format!("{folder}/queue/{name}"),
        format!("{folder}/../queue/{name}"),
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok())?;
    let value: u64 = text.trim().parse().ok()?;
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Whether the file system makes holes, tried where there is nothing: behind the end of the file.
fn punches(file: &File) -> bool {
    let end = file.metadata().map_or(0, |metadata| metadata.len());
    allocate(file, PUNCH, end, 4096).is_ok_and(|done| done)
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// One fallocate(2); false if the file cannot do that.
fn allocate(file: &File, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
    loop {
        return match fallocate(file, mode, offset, len) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            // INVAL: a block device, for a range that is not in its logical blocks.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// A disk's file and the ways to it.
pub(super) struct Raw {
    file: File,
    /// The logical block size of a block device in bytes; `None` for a file.
    device_block: Option<u64>,
    geometry: Geometry,
    /// Direct I/O has demands on buffers and offsets.
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

    /// A block device has no length in its metadata, but an end. The file's position is nobody's concern.
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
        // A hole and a zeroed range read as zeroes, of a block device too.
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

/// Lets a block device forget whole blocks within the range.
fn discard_blocks(file: &File, offset: u64, len: u64, block: u64) -> io::Result<()> {
    /// `_IO(0x12, 119)`; its argument is a pair: first byte, number of bytes.
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let start = offset.next_multiple_of(block);
    let end = offset + len - (offset + len) % block;
    if start >= end {
        return Ok(());
    }
    let range = [start, end - start];
    #[expect(unsafe_code, reason = "no safe way to ask for it")]
    // SAFETY: the request reads two 64-bit words, and `range` is that.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        error => Err(error),
    }
}

/// The alignment that direct I/O demands: bytes, powers of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct {
    /// Of buffers.
    memory: u32,
    /// Of positions in the file and of lengths, at least a sector.
    offset: u32,
}

impl Direct {
    /// No demands at all.
    const NONE: Direct = Direct {
        memory: 1,
        offset: 1,
    };

    /// `file`'s demands, if it was opened with O_DIRECT.
    fn of(file: &File) -> Option<Direct> {
        let flags = fcntl_getfl(file).ok()?;
        flags.contains(OFlags::DIRECT).then(|| {
            // A kernel before 6.1 does not tell: a page suits everything.
            let rdev = file.metadata().map_or(0, |metadata| metadata.rdev());
            Direct::told(file).unwrap_or(Direct {
                memory: 4096,
                offset: queue_limit(rdev, "logical_block_size").unwrap_or(4096),
            })
        })
    }

    fn told(file: &File) -> Option<Direct> {
        let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let known = StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN);
        let (memory, offset) = (told.stx_dio_mem_align, told.stx_dio_offset_align);
        let sane = memory.is_power_of_two()
            && offset.is_power_of_two()
            && memory as usize <= BOUNCE
            && offset as usize <= BOUNCE;
        (known && sane).then(|| Direct {
            memory,
            offset: offset.max(512),
        })
    }

    /// Whether a request can go to the file as it is.
    fn suits(self, offset: u64, buffers: impl Fn((u32, u32)) -> bool) -> bool {
        offset.is_multiple_of(self.offset.into()) && buffers((self.memory, self.offset))
    }
}

/// The size in bytes of which an image's length must be a multiple: a sector, or more with O_DIRECT.
pub fn granularity(file: &File) -> u64 {
    Direct::of(file).map_or(SECTOR, |direct| direct.offset.into())
}

/// A buffer between a driver's and the file, of bounded size, for what cannot go straight.
struct Bounce {
    align: Direct,
    /// Allocated when first used, with room to begin at an aligned address.
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

    /// How a transfer of `len` bytes at `offset` begins: the bytes before it in its first block, those of it that fit,
    /// and the whole blocks that hold both.
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

    /// Writes `len` bytes at `offset`, which `fill` gives in order. Of blocks that are written in part the rest is read
    /// before: nobody else writes to a disk in between.
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
