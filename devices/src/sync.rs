//! The atomics that threads share: loom's in the interleaving tests, `std`'s everywhere else.
//!
//! With `--cfg loom`, loom runs the queue and the interrupt in every interleaving of loads and
//! stores that their orderings allow (`queue_loom.rs`, `interrupt_loom.rs`).

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Locks `mutex`, even if it is poisoned: guest input causes no panic, and after one in a test the
/// data is still usable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A nonblocking eventfd that no child process inherits.
pub(crate) fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// The time. In the interleaving tests and under the fuzzer it stands still: what loom runs must be
/// deterministic, and the fuzzer's model of a queue has no clock. A test can stop it for its thread.
pub(crate) fn now() -> Instant {
    #[cfg(any(all(test, loom), fuzzing))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }
    #[cfg(all(test, not(loom)))]
    if let Some(stopped) = STOPPED.get() {
        return stopped;
    }
    #[cfg(not(any(all(test, loom), fuzzing)))]
    Instant::now()
}

#[cfg(all(test, not(loom)))]
thread_local! {
    static STOPPED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Stops the clock of this thread, for a test of what must not depend on how busy a machine is.
#[cfg(all(test, not(loom)))]
pub(crate) fn stop_clock() {
    STOPPED.set(Some(Instant::now()));
}
