//! The words of a ring, in guest RAM.

use std::ptr::NonNull;

use super::{Memory, RingWord};
use crate::sync::Ordering;

/// A run of naturally aligned atomic words in guest RAM, translated once.
pub(crate) struct RingWords<T> {
    first: NonNull<T>,
    count: usize,
    ram: Memory,
}

// SAFETY: a `RingWords` is a shared reference to atomics that `ram` keeps mapped; atomics may be used from any thread.
unsafe impl<T: RingWord> Send for RingWords<T> {}
// SAFETY: as above.
unsafe impl<T: RingWord> Sync for RingWords<T> {}

impl<T> Clone for RingWords<T> {
    fn clone(&self) -> Self {
        RingWords {
            first: self.first,
            count: self.count,
            ram: self.ram.clone(),
        }
    }
}

impl<T: RingWord> RingWords<T> {
    /// The `count` words from `first` on, which `ram` has mapped; `None` if there are none, or they are not aligned.
    pub(super) fn new(first: NonNull<u8>, count: usize, ram: Memory) -> Option<RingWords<T>> {
        let first = first.cast::<T>();
        (first.is_aligned() && count > 0).then_some(RingWords { first, count, ram })
    }

    /// What word `index` holds.
    #[inline]
    pub(crate) fn load(&self, index: usize, ordering: Ordering) -> T::Value {
        self.at(index).get(ordering)
    }

    /// All of them.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: as in `at`, for all of them.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }

    /// Stores `value` into word `index`.
    #[inline]
    pub(crate) fn store(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.put(index, value, ordering);
        self.wrote(index, 1);
    }

    /// The same for who says by [`wrote`](Self::wrote) afterwards, once for many.
    #[inline]
    pub(crate) fn put(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.at(index).set(value, ordering);
    }

    /// `count` words from `index` on have been stored.
    #[inline]
    pub(crate) fn wrote(&self, index: usize, count: usize) {
        if self.ram.is_recorded() {
            self.record(index, count);
        }
    }

    #[cold]
    fn record(&self, index: usize, count: usize) {
        for index in index..index + count {
            let word = std::ptr::from_ref(self.at(index));
            self.ram.wrote(word.cast(), size_of::<T>());
        }
    }

    /// RingWord `index`, modulo the number of words: an index that a guest chose cannot leave the run.
    #[inline]
    fn at(&self, index: usize) -> &T {
        // `new` refuses an empty run, so this is no division by zero; ring lengths make it one `and` or a compare.
        let index = if index < self.count {
            index
        } else {
            index % self.count
        };
        // SAFETY: index < count, and `Memory::words` checked that so many words lie in one mapping.
        let word = unsafe { self.first.add(index) };
        // SAFETY: aligned (checked by `new`), mapped for as long as `ram` lives, which outlives this borrow, and
        // only ever accessed as an atomic on our side; what the guest's stores do to it is defined for an atomic.
        unsafe { word.as_ref() }
    }
}

/// The `count` words from `first` on, which `ram` has mapped; none of them if they are not aligned.
#[inline]
pub(super) fn slice<T: RingWord>(first: NonNull<u8>, count: usize, _ram: &Memory) -> &[T] {
    let first = first.cast::<T>();
    if !first.is_aligned() {
        return &[];
    }
    // SAFETY: aligned, mapped for as long as `_ram` is borrowed, and only ever accessed as atomics on our side; what the
    // guest's stores do to them is defined for an atomic. The caller had `Memory::translate` check that so many lie there.
    unsafe { std::slice::from_raw_parts(first.as_ptr(), count) }
}
