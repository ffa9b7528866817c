//! The words of a ring as loom knows them, in the place of `words.rs`: not in guest RAM, as loom has to see every access.

use std::ptr::NonNull;
use std::sync::Arc;

use super::Memory;

/// Any word.
pub(crate) trait Word {}
impl<T> Word for T {}

/// A run of words that a driver in the same test shares.
pub(crate) struct Words<T>(pub(crate) Arc<Vec<T>>);

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Words(Arc::clone(&self.0))
    }
}

impl<T> Words<T> {
    pub(super) fn new(_: NonNull<u8>, _: usize, _: Memory) -> Option<Words<T>> {
        None
    }

    pub(crate) fn at(&self, index: usize) -> &T {
        &self.0[index % self.0.len()]
    }
}
