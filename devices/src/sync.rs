//! The atomics that threads share: in the interleaving tests loom's, everywhere else the processor's.
//!
//! Under `--cfg loom` the same code of the queue and of the interrupt is run by loom in every order of its loads and stores
//! that their orderings allow (`queue_loom.rs`, `irq_loom.rs`).

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
