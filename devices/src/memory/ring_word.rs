//! The words of a ring.

use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// An atomic word of a ring.
pub(crate) trait RingWord {
    /// The value of the word.
    type Value: Copy;
    fn get(&self, ordering: Ordering) -> Self::Value;
    fn set(&self, value: Self::Value, ordering: Ordering);
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl RingWord for $atomic {
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

/// Two adjacent words, accessed by one load or store each.
impl<W: RingWord> RingWord for [W; 2] {
    type Value = [W::Value; 2];

    #[inline]
    fn get(&self, ordering: Ordering) -> Self::Value {
        let [first, second] = self;
        [first.get(ordering), second.get(ordering)]
    }

    #[inline]
    fn set(&self, value: Self::Value, ordering: Ordering) {
        let ([first, second], [to_first, to_second]) = (self, value);
        first.set(to_first, ordering);
        second.set(to_second, ordering);
    }
}

word!(AtomicU16, u16);
word!(AtomicU32, u32);
word!(AtomicU64, u64);
