//! The words of a ring, in guest RAM.

use std::ptr::NonNull;

use super::Memory;
use crate::sync::{AtomicU16, AtomicU32, AtomicU64};

/// The word sizes that rings are made of.
pub(crate) trait Word: sealed::Sealed {}
impl Word for AtomicU16 {}
impl Word for AtomicU32 {}
impl Word for AtomicU64 {}

mod sealed {
    pub(crate) trait Sealed {}
    impl Sealed for super::AtomicU16 {}
    impl Sealed for super::AtomicU32 {}
    impl Sealed for super::AtomicU64 {}
}

/// A run of naturally aligned atomic words in guest RAM, translated once.
pub(crate) struct Words<T> {
    first: NonNull<T>,
    count: usize,
    _ram: Memory,
}

// SAFETY: a `Words` is a shared reference to atomics that `_ram` keeps mapped; atomics may be used from any thread.
unsafe impl<T: Word> Send for Words<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Words<T> {}

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Words {
            first: self.first,
            count: self.count,
            _ram: self._ram.clone(),
        }
    }
}

impl<T: Word> Words<T> {
    /// The `count` words from `first` on, which `ram` has mapped; `None` if there are none, or they are not aligned.
    pub(super) fn new(first: NonNull<u8>, count: usize, ram: Memory) -> Option<Words<T>> {
        let first = first.cast::<T>();
        (first.is_aligned() && count > 0).then_some(Words {
            first,
            count,
            _ram: ram,
        })
    }

    /// Word `index`, modulo the number of words: an index that a guest chose cannot leave the run.
    pub(crate) fn at(&self, index: usize) -> &T {
        // `new` refuses an empty run, so this is no division by zero; ring lengths make it one `and` or a compare.
        let index = if index < self.count {
            index
        } else {
            index % self.count
        };
        // SAFETY: index < count, and `Memory::words` checked that so many words lie in one mapping.
        let word = unsafe { self.first.add(index) };
        // SAFETY: aligned (checked by `new`), mapped for as long as `_ram` lives, which outlives this borrow, and
        // only ever accessed as an atomic on our side; what the guest's stores do to it is defined for an atomic.
        unsafe { word.as_ref() }
    }
}
