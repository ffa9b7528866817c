//! Guest RAM as a device reaches it.
//!
//! A guest address is checked and translated once: a ring at activation, into words; a buffer when its descriptor
//! is read, into a piece. After that every access is a plain load, store or `preadv` on host memory.
//!
//! The guest's vCPUs and the kernel write this memory while we look at it. So ring words are atomics, buffers are only
//! ever copied or handed to the kernel, and no `&[u8]` into guest memory exists anywhere.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::{
    GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, VolatileSlice,
};

mod dirty;
mod ring_word;
#[cfg_attr(all(test, loom), path = "memory/ring_words_loom.rs")]
mod ring_words;

use dirty::DirtyLog;
pub use dirty::DirtyPages;
pub(crate) use ring_word::RingWord;
pub(crate) use ring_words::RingWords;

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("virtio 1.x fields are little-endian, and guest addresses must fit a usize");

/// The most pieces one `preadv` takes: the kernel's UIO_MAXIOV.
const IOV_MAX: usize = 1024;

/// All RAM of one guest. Clones share it; it stays mapped until the last clone is gone.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    /// What [`Memory::translate`] needs of `_ram`, side by side: each descriptor is looked up here.
    regions: Vec<Region>,
    /// A copy of the first of them, where it is found without going by the vector; none has 0 bytes.
    first: Region,
    /// The pages that were written, if somebody wants to know.
    record: Option<DirtyLog>,
    _ram: Arc<GuestMemoryMmap>,
}

/// A range of guest addresses and where the host has it.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
}

impl Region {
    /// Where the host has the `len` bytes at `address`, at least one; `None` unless all of them are here.
    #[inline]
    fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        // Below `start` it wraps, to more than any region is long.
        let offset = address.wrapping_sub(self.start);
        if offset > self.len.checked_sub(len)? {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset` lies within the mapping that begins at `host`, or where no byte is asked for at its end.
        Some(unsafe { self.host.add(offset) })
    }
}

// SAFETY: an address and a length; who makes a pointer of them, which is `translate`, holds `_ram` with it.
unsafe impl Send for Region {}
// SAFETY: as above, and nothing of it ever changes.
unsafe impl Sync for Region {}

impl Memory {
    /// The memory that `ram` maps.
    pub fn new(ram: Arc<GuestMemoryMmap>) -> Self {
        Memory::map(ram, None)
    }

    /// The same, with a record of what devices write to it, by pages of `page` bytes: [`take_written`](Self::take_written).
    pub fn recorded(ram: Arc<GuestMemoryMmap>, page: NonZeroUsize) -> Self {
        Memory::map(ram, Some(page))
    }

    fn map(ram: Arc<GuestMemoryMmap>, page: Option<NonZeroUsize>) -> Self {
        let region = |region: &GuestRegionMmap| {
            Some(Region {
                start: region.start_addr().0,
                len: region.len(),
                host: NonNull::new(region.as_ptr())?,
            })
        };
        let regions: Vec<_> = ram.iter().filter_map(region).collect();
        let none = Region {
            start: 0,
            len: 0,
            host: NonNull::dangling(),
        };
        Memory(Arc::new(Mapped {
            first: regions.first().copied().unwrap_or(none),
            record: page.map(|page| DirtyLog::new(&regions, page)),
            regions,
            _ram: ram,
        }))
    }

    /// The pages that devices have written since the last call, region by region: nothing if that is not recorded. A page
    /// counts once it was written, so one that is written while it is copied is there again next time; when the devices have
    /// stopped, all are.
    pub fn take_written(&self) -> Vec<DirtyPages> {
        let record = self.0.record.as_ref();
        record.map_or_else(Vec::new, |record| record.take(&self.0.regions))
    }

    #[inline]
    fn is_recorded(&self) -> bool {
        self.0.record.is_some()
    }

    /// `len` bytes at host address `host`, which `translate` gave, have been written.
    #[inline]
    fn wrote(&self, host: *const u8, len: usize) {
        if let Some(record) = &self.0.record {
            record.mark(&self.0.regions, host, len);
        }
    }

    /// `len` bytes at guest address `address` as host memory, or `None` unless one region of RAM holds all of them.
    ///
    /// There is one region, or a few of a vhost-user front end: going through them is faster than any search.
    #[inline]
    fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        match self.0.first.translate(address, len) {
            None => self.translate_further(address, len),
            host => host,
        }
    }

    /// Where it is not in the first region.
    #[cold]
    fn translate_further(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        let mut further = self.0.regions.iter().skip(1);
        further.find_map(|region| region.translate(address, len))
    }

    /// `count` words at guest address `address`; `None` if they are not all RAM or the address is not a multiple of
    /// the word's alignment.
    pub(crate) fn words<T: RingWord>(&self, address: u64, count: usize) -> Option<RingWords<T>> {
        let len = (count as u64).checked_mul(size_of::<T>() as u64)?;
        RingWords::new(self.translate(address, len)?, count, self.clone())
    }

    /// The same for a moment, without a share of the memory; empty where `words` gives `None`.
    #[inline]
    pub(crate) fn slice<T: RingWord>(&self, address: u64, count: u32) -> &[T] {
        let len = u64::from(count) * size_of::<T>() as u64;
        match self.translate(address, len) {
            Some(first) => ring_words::slice(first, count as usize, self),
            None => &[],
        }
    }

    /// Copies what stands at guest address `address` into `out`; `None`, with `out` untouched, if it is not all RAM.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Option<()> {
        let from = self.translate(address, out.len() as u64)?;
        IoVec::new(from, out.len()).volatile().copy_to(out);
        Some(())
    }
}

/// A piece of guest memory in the kernel's own shape for it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct IoVec(libc::iovec);

// SAFETY: a `IoVec` is an address and a length; what may be done with them is up to `IoVecs`, which holds the memory.
unsafe impl Send for IoVec {}

impl IoVec {
    fn new(host: NonNull<u8>, len: usize) -> Self {
        IoVec(libc::iovec {
            iov_base: host.as_ptr().cast(),
            iov_len: len,
        })
    }

    fn len(&self) -> usize {
        self.0.iov_len
    }

    fn host(&self) -> *const u8 {
        self.0.iov_base.cast()
    }

    fn split(&self, at: usize) -> (IoVec, IoVec) {
        let at = at.min(self.len());
        let host = self.0.iov_base.cast::<u8>();
        let piece = |base: *mut u8, iov_len| {
            IoVec(libc::iovec {
                iov_base: base.cast(),
                iov_len,
            })
        };
        (
            piece(host, at),
            piece(host.wrapping_add(at), self.len() - at),
        )
    }

    /// For one copy. The caller holds the `Memory` that the piece was translated from.
    fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: every piece is made from `Memory::translate`'s answer or is part of such a piece, and whoever holds a
        // piece holds the `Memory` too (`IoVecs::ram`), so the range stays mapped while `self` is borrowed.
        unsafe { VolatileSlice::new(self.0.iov_base.cast(), self.len()) }
    }
}

/// One direction of a descriptor chain: pieces of guest memory, consumed from the front.
pub(crate) struct IoVecs {
    pieces: Vec<IoVec>,
    /// How many of `pieces` are used up.
    done: usize,
    /// Bytes left.
    len: u64,
    /// The byte that `split_last` set aside.
    last: Option<IoVec>,
    ram: Memory,
}

/// A descriptor names bytes that are not RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotRam;

impl IoVecs {
    pub(crate) fn new(ram: Memory) -> Self {
        IoVecs {
            pieces: Vec::new(),
            done: 0,
            len: 0,
            last: None,
            ram,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.done = 0;
        self.len = 0;
        self.last = None;
    }

    /// Appends `len` bytes at guest address `address`.
    #[inline(always)]
    pub(crate) fn append(&mut self, address: u64, len: u32) -> Result<(), NotRam> {
        if len == 0 {
            return Ok(());
        }
        let host = self.ram.translate(address, len.into()).ok_or(NotRam)?;
        self.pieces.push(IoVec::new(host, len as usize));
        self.len += u64::from(len);
        Ok(())
    }

    /// Bytes left.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether each piece that is left begins at a multiple of `memory` and is a multiple of `len` long: bytes, not 0.
    pub(crate) fn is_aligned(&self, (memory, len): (u32, u32)) -> bool {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        left.iter().all(|piece| {
            let address = piece.0.iov_base.addr();
            address.is_multiple_of(memory as usize) && piece.len().is_multiple_of(len as usize)
        })
    }

    /// Drops the first `count` bytes.
    pub(crate) fn skip(&mut self, mut count: u64) {
        self.len = self.len.saturating_sub(count);
        while let Some(piece) = self.pieces.get_mut(self.done) {
            let here = piece.len() as u64;
            if count < here {
                // `count` is below a piece's length, so it fits.
                piece.0 = piece.split(usize::try_from(count).unwrap_or(0)).1.0;
                break;
            }
            count -= here;
            self.done += 1;
        }
    }

    /// Drops all but the first `count` bytes.
    pub(crate) fn truncate(&mut self, count: u64) {
        while self.len > count {
            let Some(last) = self.pieces.pop() else {
                return;
            };
            self.len -= last.len() as u64;
            if self.len < count {
                let keep = usize::try_from(count - self.len).unwrap_or(0);
                self.pieces.push(last.split(keep).0);
                self.len = count;
            }
        }
    }

    /// Sets the last byte aside for [`write_last`](Self::write_last); false if there is none.
    pub(crate) fn split_last(&mut self) -> bool {
        let last = self.pieces.get(self.done..).and_then(<[IoVec]>::last);
        self.last = last.map(|piece| piece.split(piece.len() - 1).1);
        self.truncate(self.len.saturating_sub(1));
        self.last.is_some()
    }

    /// Writes the byte that `split_last` set aside, once; false if there is none.
    pub(crate) fn write_last(&mut self, value: u8) -> bool {
        let last = self.last.take();
        if let Some(byte) = &last {
            byte.volatile().copy_from(&[value]);
            self.ram.wrote(byte.host(), 1);
        }
        last.is_some()
    }

    /// Copies bytes out of guest memory, from the front; returns how many there were.
    pub(crate) fn copy_out(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.iter().skip(self.done) {
            let Some(rest) = out.get_mut(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            copied += piece.volatile().copy_to(rest);
        }
        self.skip(copied as u64);
        copied
    }

    /// Copies bytes into guest memory, from the front; returns how many found room.
    pub(crate) fn copy_in(&mut self, bytes: &[u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.iter().skip(self.done) {
            let Some(rest) = bytes.get(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            let count = rest.len().min(piece.len());
            piece.volatile().copy_from(rest);
            self.ram.wrote(piece.host(), count);
            copied += count;
        }
        self.skip(copied as u64);
        copied
    }

    /// The first `count` bytes left have been written.
    fn wrote(&self, mut count: u64) {
        if !self.ram.is_recorded() {
            return;
        }
        for piece in self.pieces.iter().skip(self.done) {
            let here = usize::try_from(count).map_or(piece.len(), |count| count.min(piece.len()));
            self.ram.wrote(piece.host(), here);
            count -= here as u64;
        }
    }

    /// One vectored system call on what is left, or on about `inline` bytes of it, then consumes what it moved. `fills`: it
    /// writes guest memory.
    fn vectored(
        &mut self,
        fills: bool,
        inline: Option<usize>,
        call: impl Fn(*const libc::iovec, i32) -> isize,
    ) -> io::Result<u64> {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        let cut;
        let left = match inline.map(|limit| (limit, whole_within(left, limit))) {
            None => left,
            // Not even the first one.
            Some((limit, 0)) => {
                cut = left.first().map(|first| first.split(limit).0);
                cut.as_slice()
            }
            Some((_, count)) => left.get(..count).unwrap_or_default(),
        };
        let count = i32::try_from(left.len().min(IOV_MAX)).unwrap_or(0);
        loop {
            // `IoVec` is `repr(transparent)` over iovec.
            if let Ok(moved) = u64::try_from(call(left.as_ptr().cast(), count)) {
                if fills {
                    self.wrote(moved);
                }
                self.skip(moved);
                return Ok(moved);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Err(error),
                _ => {
                    // Direct I/O may have filled a part before it failed.
                    if fills {
                        self.wrote(self.len);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Fills all that is left from `file` at byte `offset`. A file that ends too early is `UnexpectedEof`.
    pub(crate) fn read_exact_at(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs describe mapped guest RAM (`ram` is held); the kernel may write it, as the guest asked.
            let moved = self.vectored(true, None, |iov, n| unsafe {
                libc::preadv(file.as_raw_fd(), iov, n, at)
            })?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += moved;
        }
        Ok(())
    }

    /// Writes all that is left to `file` at byte `offset`, by calls of at most `inline` bytes.
    pub(crate) fn write_all_at(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        inline: Option<usize>,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs describe mapped guest RAM (`ram` is held), which the kernel only reads.
            let moved = self.vectored(false, inline, |iov, n| unsafe {
                libc::pwritev(file.as_raw_fd(), iov, n, at)
            })?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += moved;
        }
        Ok(())
    }

    /// One `readv` from a stream; returns the bytes it gave, 0 at its end.
    pub(crate) fn read_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs describe mapped guest RAM (`ram` is held); the kernel may write it, as the guest asked.
        self.vectored(true, None, |iov, n| unsafe {
            libc::readv(stream.as_raw_fd(), iov, n)
        })
    }

    /// One `writev` to a stream; returns the bytes it took.
    pub(crate) fn write_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs describe mapped guest RAM (`ram` is held), which the kernel only reads.
        self.vectored(false, None, |iov, n| unsafe {
            libc::writev(stream.as_raw_fd(), iov, n)
        })
    }
}

/// How many of the first pieces are no longer than `limit` bytes together.
fn whole_within(pieces: &[IoVec], mut limit: usize) -> usize {
    let fits = |piece: &&IoVec| {
        let rest = limit.checked_sub(piece.len());
        limit = rest.unwrap_or(0);
        rest.is_some()
    };
    pieces.iter().take_while(fits).count()
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "memory_test.rs"]
mod tests;
