//! Access to guest RAM for devices.
//!
//! A guest address is checked and translated once: for a ring at activation, into words; for a
//! buffer when its descriptor is read, into an iovec. After that every access is a plain load,
//! store or `preadv` on host memory.
//!
//! The guest's vCPUs and the kernel write this memory while we read it. So ring words are atomics,
//! buffers are only copied or passed to the kernel, and there is no `&[u8]` into guest memory.

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

mod dirty;
mod discard;
mod iovec;
mod ring_word;
#[cfg_attr(all(test, loom), path = "memory/ring_words_loom.rs")]
mod ring_words;

use dirty::DirtyLog;
pub use dirty::DirtyPages;
use iovec::IoVec;
pub use iovec::{Readable, Writable};
pub(crate) use ring_word::RingWord;
pub(crate) use ring_words::RingWords;

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("virtio 1.x fields are little-endian, and guest addresses must fit a usize");

/// All RAM of one guest. Clones share it; it stays mapped until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    /// The addresses of `ram`, packed for [`Memory::translate`], which every descriptor needs.
    regions: Vec<Region>,
    /// A copy of the first region, which saves the load of the vector's pointer. It has 0 bytes if
    /// there is no region.
    first: Region,
    /// The pages that devices wrote, if they are recorded.
    dirty: Option<DirtyLog>,
    ram: Arc<GuestMemoryMmap>,
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
// hold `ram`.
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
        let none = Region { start: 0, len: 0, host: NonNull::dangling() };
        Memory(Arc::new(Mapped {
            first: regions.first().copied().unwrap_or(none),
            dirty: page.map(|page| DirtyLog::new(&regions, page)),
            regions,
            ram,
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

    /// The mappings, for another process that shares them.
    pub(crate) fn ram(&self) -> &GuestMemoryMmap {
        &self.0.ram
    }

    #[inline]
    fn is_recorded(&self) -> bool {
        self.0.dirty.is_some()
    }

    /// Records that `len` bytes at host address `host`, which `translate` returned, were written.
    #[inline]
    fn mark_dirty(&self, host: *const u8, len: usize) {
        if let Some(dirty) = &self.0.dirty {
            dirty.mark(&self.0.regions, host, len);
        }
    }

    /// The host address of `len` bytes at guest address `address`; `None` unless one region holds
    /// all of them.
    ///
    /// There is one region, or a few from a vhost-user front end, so a linear search is fastest.
    #[inline]
    pub(crate) fn translate(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
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

#[cfg(test)]
#[cfg(not(loom))]
#[path = "memory_test.rs"]
mod tests;
