//! Access to guest RAM for devices.
//!
//! A guest address is checked and translated once: for a ring at activation, into words; for a
//! buffer when its descriptor is read, into an iovec. After that every access is a plain load,
//! store or `preadv` on host memory.
//!
//! The guest's vCPUs and the kernel write this memory while we read it. So ring words are atomics,
//! buffers are only copied or passed to the kernel, and there is no `&[u8]` into guest memory.

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

/// The most iovecs per `preadv`: the kernel's UIO_MAXIOV.
const IOV_MAX: usize = 1024;

/// All RAM of one guest. Clones share it; it stays mapped until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    /// The addresses of `_ram`, packed for [`Memory::translate`], which every descriptor needs.
    regions: Vec<Region>,
    /// A copy of the first region, which saves the load of the vector's pointer. It has 0 bytes if
    /// there is no region.
    first: Region,
    /// The pages that devices wrote, if they are recorded.
    dirty: Option<DirtyLog>,
    _ram: Arc<GuestMemoryMmap>,
}

/// A range of guest addresses, and its address in the host.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
}

impl Region {
    /// The host address of the `len` bytes at guest address `address`; `None` unless all of them
    /// are in this region.
    #[inline]
    fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        // An address below `start` wraps to an offset larger than any region.
        let offset = address.wrapping_sub(self.start);
        if offset > self.len.checked_sub(len)? {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset` lies within the mapping that begins at `host`, or at its end if `len` is
        // 0.
        Some(unsafe { self.host.add(offset) })
    }
}

// SAFETY: it is an address and a length. Only `translate` makes pointers from them, and its callers
// hold `_ram`.
unsafe impl Send for Region {}
// SAFETY: as above, and it never changes.
unsafe impl Sync for Region {}

impl Memory {
    /// The memory that `ram` maps.
    pub fn new(ram: Arc<GuestMemoryMmap>) -> Self {
        Memory::map(ram, None)
    }

    /// Like [`new`](Self::new), and records the pages of `page` bytes that devices write, for
    /// [`take_written`](Self::take_written).
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
            dirty: page.map(|page| DirtyLog::new(&regions, page)),
            regions,
            _ram: ram,
        }))
    }

    /// The pages that devices have written since the last call, per region; empty if they are not
    /// recorded.
    ///
    /// A page is marked after the write. So a page that is written while the caller copies it is
    /// returned again by the next call. Once the devices are stopped, the record is complete.
    pub fn take_written(&self) -> Vec<DirtyPages> {
        let dirty = self.0.dirty.as_ref();
        dirty.map_or_else(Vec::new, |dirty| dirty.take(&self.0.regions))
    }

    #[inline]
    fn is_recorded(&self) -> bool {
        self.0.dirty.is_some()
    }

    /// Records that `len` bytes at host address `host`, which `translate` returned, were written.
    #[inline]
    fn wrote(&self, host: *const u8, len: usize) {
        if let Some(dirty) = &self.0.dirty {
            dirty.mark(&self.0.regions, host, len);
        }
    }

    /// The host address of `len` bytes at guest address `address`; `None` unless one region holds
    /// all of them.
    ///
    /// There is one region, or a few from a vhost-user front end, so a linear search is fastest.
    #[inline]
    fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        match self.0.first.translate(address, len) {
            None => self.translate_further(address, len),
            host => host,
        }
    }

    /// `translate` for the regions after the first.
    #[cold]
    fn translate_further(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        let mut further = self.0.regions.iter().skip(1);
        further.find_map(|region| region.translate(address, len))
    }

    /// `count` words at guest address `address`; `None` if they are not all RAM, or the address is
    /// not aligned to a word.
    pub(crate) fn words<T: RingWord>(&self, address: u64, count: usize) -> Option<RingWords<T>> {
        let len = (count as u64).checked_mul(size_of::<T>() as u64)?;
        RingWords::new(self.translate(address, len)?, count, self.clone())
    }

    /// Like `words`, but borrows the memory instead of holding it; empty where `words` returns
    /// `None`.
    #[inline]
    pub(crate) fn slice<T: RingWord>(&self, address: u64, count: u32) -> &[T] {
        let len = u64::from(count) * size_of::<T>() as u64;
        match self.translate(address, len) {
            Some(first) => ring_words::slice(first, count as usize, self),
            None => &[],
        }
    }

    /// Copies the bytes at guest address `address` to `out`; `None`, with `out` unchanged, if they
    /// are not all RAM.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Option<()> {
        let from = self.translate(address, out.len() as u64)?;
        IoVec::new(from, out.len()).volatile().copy_to(out);
        Some(())
    }
}

/// A range of guest memory, in the kernel's format.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct IoVec(libc::iovec);

// SAFETY: it is an address and a length. `IoVecs` uses them, and holds the memory.
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

    /// For one copy. The caller holds the `Memory` that this was translated from.
    fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: every `IoVec` comes from `Memory::translate` or is part of one that does. Its
        // holder also holds the `Memory` (`IoVecs::ram`), so the range stays mapped while `self` is
        // borrowed.
        unsafe { VolatileSlice::new(self.0.iov_base.cast(), self.len()) }
    }
}

/// One direction of a descriptor chain: ranges of guest memory, consumed from the front.
pub(crate) struct IoVecs {
    pieces: Vec<IoVec>,
    /// The number of `pieces` that are consumed.
    done: usize,
    /// Bytes left.
    len: u64,
    /// The byte that `split_last` reserved.
    last: Option<IoVec>,
    ram: Memory,
}

/// A buffer that is not all RAM.
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

    /// Whether each piece left starts at a multiple of `memory` bytes and its length is a multiple
    /// of `len` bytes. Neither may be 0.
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
                // It fits: `count` is less than the length of a piece.
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

    /// Reserves the last byte for [`write_last`](Self::write_last); false if there is none.
    pub(crate) fn split_last(&mut self) -> bool {
        let last = self.pieces.get(self.done..).and_then(<[IoVec]>::last);
        self.last = last.map(|piece| piece.split(piece.len() - 1).1);
        self.truncate(self.len.saturating_sub(1));
        self.last.is_some()
    }

    /// Writes the byte that `split_last` reserved, once; false if there is none.
    pub(crate) fn write_last(&mut self, value: u8) -> bool {
        let last = self.last.take();
        if let Some(byte) = &last {
            byte.volatile().copy_from(&[value]);
            self.ram.wrote(byte.host(), 1);
        }
        last.is_some()
    }

    /// Copies bytes out of guest memory, from the front. Returns how many were copied.
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

    /// Copies bytes into guest memory, from the front. Returns how many were copied.
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

    /// Records that the first `count` bytes left were written.
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

    /// Makes one vectored system call for the bytes left, or for at most `limit` bytes, and
    /// consumes the bytes that it transferred. `fills` says whether it writes guest memory.
    fn vectored(
        &mut self,
        fills: bool,
        limit: Option<usize>,
        call: impl Fn(*const libc::iovec, i32) -> isize,
    ) -> io::Result<u64> {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        let cut;
        let left = match limit.map(|limit| (limit, whole_within(left, limit))) {
            None => left,
            // The first piece alone is too long.
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

    /// Fills all bytes left from `file` at byte `offset`; `UnexpectedEof` if the file is too short.
    pub(crate) fn read_exact_at(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs are mapped guest RAM (`ram` is held). The kernel may write it: the
            // guest made these buffers writable.
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

    /// Writes all bytes left to `file` at byte `offset`, with at most `limit` bytes per call.
    pub(crate) fn write_all_at(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        limit: Option<usize>,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs are mapped guest RAM (`ram` is held), which the kernel only reads.
            let moved = self.vectored(false, limit, |iov, n| unsafe {
                libc::pwritev(file.as_raw_fd(), iov, n, at)
            })?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += moved;
        }
        Ok(())
    }

    /// One `readv` from a stream. Returns the bytes read, 0 at its end.
    pub(crate) fn read_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held). The kernel may write it: the
        // guest made these buffers writable.
        self.vectored(true, None, |iov, n| unsafe {
            libc::readv(stream.as_raw_fd(), iov, n)
        })
    }

    /// One `writev` to a stream. Returns the bytes written.
    pub(crate) fn write_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held), which the kernel only reads.
        self.vectored(false, None, |iov, n| unsafe {
            libc::writev(stream.as_raw_fd(), iov, n)
        })
    }
}

/// How many of the first pieces fit into `limit` bytes.
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
