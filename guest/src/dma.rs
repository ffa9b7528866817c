//! Memory that driver and device share: a fixed arena, from which regions are allocated in order.
//!
//! ```text
//!   pointer (this program)   start ──────┬──────────┬───────────────┬───────── start + len
//!   bus address (device)     bus   ──────┴──────────┴───────────────┴───────── bus   + len
//!                                  region   region    taken so far      free
//! ```
//!
//! The two differ if the driver runs in a test on the build machine; on the guest they are equal.
//! Nothing here makes a reference to the bytes: the device may write while the driver reads. All
//! numbers are little-endian (§2.4).

#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::Error;

/// Alignment of every allocation, in bytes. More than any virtqueue area needs (§2.7: 16).
pub const PAGE: usize = 4096;

/// A bump allocator over memory that a device can reach. Nothing is ever freed.
#[derive(Debug)]
pub struct Dma {
    start: NonNull<u8>,
    bus: u64,
    len: usize,
    taken: usize,
}

/// A part of the arena. Clones share the same bytes.
#[derive(Clone, Debug)]
pub struct Region {
    start: NonNull<u8>,
    bus: u64,
    len: usize,
}

// SAFETY: a Dma owns its bytes like a Box does (the contract of `Dma::new`), from any thread.
unsafe impl Send for Dma {}
// SAFETY: a Region only offers atomic accesses and copies into bytes that no reference ever covers.
unsafe impl Send for Region {}

impl Dma {
    /// Takes `len` bytes at `start`, whose bus address is `bus`.
    ///
    /// # Safety
    ///
    /// The bytes must be readable and writable for as long as the arena or a region of it exists,
    /// and during that time only devices may access them by other means.
    ///
    /// # Panics
    ///
    /// If `start` or `bus` is not aligned to [`PAGE`].
    pub unsafe fn new(start: NonNull<u8>, bus: u64, len: usize) -> Self {
        assert!(
            start.addr().get().is_multiple_of(PAGE) && bus.is_multiple_of(PAGE as u64),
            "the DMA arena must begin at a page: pointer {start:p}, bus address {bus:#x}"
        );
        Self { start, bus, len, taken: 0 }
    }

    /// Bytes that are still free.
    pub fn left(&self) -> usize {
        self.len - self.taken
    }

    /// Allocates `len` zeroed bytes at a page boundary.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfDma`] when the arena has fewer bytes left.
    pub fn alloc(&mut self, len: usize) -> Result<Region, Error> {
        let rounded = len
            .checked_next_multiple_of(PAGE)
            .filter(|rounded| *rounded <= self.left());
        let Some(rounded) = rounded else {
            return Err(Error::OutOfDma { wanted: len, left: self.left() });
        };
        // SAFETY: taken + rounded ≤ len, so the sum stays inside the arena.
        let start = unsafe { self.start.add(self.taken) };
        let region = Region { start, bus: self.bus + self.taken as u64, len };
        self.taken += rounded;
        region.fill(0);
        Ok(region)
    }
}

/// Little-endian accesses of one width, each a single atomic load or store.
macro_rules! word {
    ($load:ident, $store:ident, $word:ty, $atomic:ty) => {
        /// Reads the little-endian word at `offset`.
        ///
        /// # Panics
        ///
        /// If the word is misaligned or outside the region.
        pub fn $load(&self, offset: usize, order: Ordering) -> $word {
            let word = self
                .at(offset, size_of::<$word>(), align_of::<$atomic>())
                .cast::<$atomic>();
            // SAFETY: `at` checked bounds and alignment; the bytes live as long as the region
            // (`Dma::new`).
            <$word>::from_le(unsafe { word.as_ref() }.load(order))
        }

        /// Writes the little-endian word at `offset`.
        ///
        /// # Panics
        ///
        /// If the word is misaligned or outside the region.
        pub fn $store(&self, offset: usize, value: $word, order: Ordering) {
            let word = self
                .at(offset, size_of::<$word>(), align_of::<$atomic>())
                .cast::<$atomic>();
            // SAFETY: as in the load above.
            unsafe { word.as_ref() }.store(value.to_le(), order);
        }
    };
}

impl Region {
    word!(load_u16, store_u16, u16, AtomicU16);
    word!(load_u32, store_u32, u32, AtomicU32);
    word!(load_u64, store_u64, u64, AtomicU64);

    /// The bus address of the first byte.
    pub fn bus(&self) -> u64 {
        self.bus
    }

    /// Length in bytes.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a region of nothing has no use"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The part of the region that `range` (in bytes) covers.
    ///
    /// # Panics
    ///
    /// If `range` is not inside the region.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let len = range.len();
        Self { start: self.at(range.start, len, 1), bus: self.bus + range.start as u64, len }
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Panics
    ///
    /// If not all of the bytes are inside the region.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len(), 1);
        // SAFETY: bounds checked; `into` is not part of the arena, as no reference into it is ever
        // made.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Panics
    ///
    /// If the bytes are not all inside the region.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let into = self.at(offset, from.len(), 1);
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
    }

    /// Sets every byte to `value`.
    pub fn fill(&self, value: u8) {
        // SAFETY: start and len are those of the region.
        unsafe { ptr::write_bytes(self.start.as_ptr(), value, self.len) };
    }

    /// A pointer to `len` bytes at `offset`. Offsets come from this crate's own state, never from a
    /// device, so a wrong one is a bug.
    fn at(&self, offset: usize, len: usize, align: usize) -> NonNull<u8> {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {offset} are not inside a region of {} bytes",
            self.len
        );
        // SAFETY: offset ≤ len of the region.
        let start = unsafe { self.start.add(offset) };
        assert!(
            start.addr().get().is_multiple_of(align),
            "misaligned access at {offset}"
        );
        start
    }
}

#[cfg(test)]
#[path = "dma_test.rs"]
mod tests;
