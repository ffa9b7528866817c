//! The atomics that threads share: in the interleaving tests loom's, everywhere else the processor's.
//!
//! Under `--cfg loom` the same code of the queue and of the interrupt is run by loom in every order
//! of its loads and stores that their orderings allow (`queue_loom.rs`, `interrupt_loom.rs`).

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Locks `mutex`. Nothing here panics on what a guest does; after a panic in a test the value is
/// still a plain value.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An eventfd whose reads and writes do not wait, and which no child process inherits.
pub(crate) fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}
