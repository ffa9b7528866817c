//! The flag that makes a thread stop serving a device's queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop serving. Clones share it. A queue checks it before each chain, so the wait is
/// for at most the request in progress.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Sets or clears the request.
    pub(crate) fn set(&self, stop: bool) {
        // Relaxed: this is only a hint. The caller takes a lock next, which orders what follows.
        self.0.store(stop, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
