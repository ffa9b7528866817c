//! Ring words for loom, in place of `ring_words.rs`. They are not in guest RAM, as loom must see
//! every access.

use std::ptr::NonNull;
use std::sync::Arc;

use super::{Memory, RingWord};
use crate::sync::Ordering;

/// An array of words, shared with the driver in the same test.
pub(crate) struct RingWords<T>(pub(crate) Arc<Vec<T>>);

impl<T> Clone for RingWords<T> {
    fn clone(&self) -> Self {
        RingWords(Arc::clone(&self.0))
    }
}

impl<T: RingWord> RingWords<T> {
    pub(super) fn new(_: NonNull<u8>, _: usize, _: Memory) -> Option<RingWords<T>> {
        None
    }

    pub(crate) fn load(&self, index: usize, ordering: Ordering) -> T::Value {
        self.at(index).get(ordering)
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }

    pub(crate) fn store(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.put(index, value, ordering);
    }

    pub(crate) fn put(&self, index: usize, value: T::Value, ordering: Ordering) {
        self.at(index).set(value, ordering);
    }

    pub(crate) fn mark_dirty(&self, _: usize, _: usize) {}

    pub(crate) fn at(&self, index: usize) -> &T {
        &self.0[index % self.0.len()]
    }
}

/// Empty: loom does not see accesses to guest RAM.
pub(super) fn slice<T: RingWord>(_: NonNull<u8>, _: usize, _: &Memory) -> &[T] {
    &[]
}
