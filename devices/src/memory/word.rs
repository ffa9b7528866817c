//! What a word of a ring is.

use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The atomics that rings are made of.
pub(crate) trait Word {
    /// What one holds.
    type Value: Copy;
    fn get(&self, ordering: Ordering) -> Self::Value;
    fn set(&self, value: Self::Value, ordering: Ordering);
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            type Value = $value;

            #[inline]
            fn get(&self, ordering: Ordering) -> $value {
                self.load(ordering)
            }

            #[inline]
            fn set(&self, value: $value, ordering: Ordering) {
                self.store(value, ordering);
            }
        }
    };
}

word!(AtomicU16, u16);
word!(AtomicU32, u32);
word!(AtomicU64, u64);
