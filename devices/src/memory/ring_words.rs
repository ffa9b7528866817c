//! Arrays of ring words in guest RAM.

use std::ptr::NonNull;

use super::{Memory, RingWord};
use crate::sync::Ordering;

/// An array of naturally aligned atomic words in guest RAM, translated once.
pub(crate) struct RingWords<T> {
    first: NonNull<T>,
    count: usize,
    ram: Memory,
}

// SAFETY: it is a shared reference to atomics, which `ram` keeps mapped; any thread may use them.
unsafe impl<T: RingWord> Send for RingWords<T> {}
// SAFETY: as above.
unsafe impl<T: RingWord> Sync for RingWords<T> {}

impl<T> Clone for RingWords<T> {
    fn clone(&self) -> Self {
        RingWords { first: self.first, count: self.count, ram: self.ram.clone() }
    }
}

impl<T: RingWord> RingWords<T> {
    /// The `count` words from `first` on, which `ram` maps; `None` if `count` is 0 or `first` is
    /// not aligned.
    pub(super) fn new(first: NonNull<u8>, count: usize, ram: Memory) -> Option<RingWords<T>> {
        let first = first.cast::<T>();
        (first.is_aligned() && count > 0).then_some(RingWords { first, count, ram })
    }

    /// Loads word `index`.
    #[inline]
    pub(crate) fn load(&self, index: usize, ordering: Ordering) -> T::Value {
        self.at(index).get(ordering)
    }

    /// All words.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: as in `at`, for all words.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }

    /// Stores `value` to word `index`.
    #[inline]
    pub(crate) fn store(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.put(index, value, ordering);
        self.mark_dirty(index, 1);
    }

    /// Like [`store`](Self::store), but leaves dirty tracking to a later
    /// [`mark_dirty`](Self::mark_dirty), for batches.
    #[inline]
    pub(crate) fn put(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.at(index).set(value, ordering);
    }

    /// Records that `count` words from `index` on were stored.
    #[inline]
    pub(crate) fn mark_dirty(&self, index: usize, count: usize) {
        if self.ram.is_recorded() {
            self.record(index, count);
        }
    }

    #[cold]
    fn record(&self, index: usize, count: usize) {
        for index in index..index + count {
            let word = std::ptr::from_ref(self.at(index));
            self.ram.mark_dirty(word.cast(), size_of::<T>());
        }
    }

    /// Word `index` modulo the number of words: an index from the guest stays within the array.
    #[inline]
    fn at(&self, index: usize) -> &T {
        // `new` refuses an empty array, so this does not divide by zero. The compare avoids the
        // division for an index in range.
        let index = if index < self.count {
            index
        } else {
            index % self.count
        };
        // SAFETY: index < count, and `Memory::words` checked that `count` words are mapped.
        let word = unsafe { self.first.add(index) };
        // SAFETY: it is aligned (checked by `new`) and mapped for as long as `ram` lives, which
        // outlives this borrow. We only access it as an atomic, so concurrent stores by the guest
        // are defined.
        unsafe { word.as_ref() }
    }
}

/// The `count` words from `first` on, which `_ram` maps; empty if `first` is not aligned.
#[inline]
pub(super) fn slice<T: RingWord>(first: NonNull<u8>, count: usize, _ram: &Memory) -> &[T] {
    let first = first.cast::<T>();
    if !first.is_aligned() {
        return &[];
    }
    // SAFETY: they are aligned, and mapped for as long as `_ram` is borrowed: the caller checked
    // with `Memory::translate` that `count` words are mapped. We only access them as atomics, so
    // concurrent stores by the guest are defined.
    unsafe { std::slice::from_raw_parts(first.as_ptr(), count) }
}
