//! How whoever wants a device for itself makes the thread that serves it let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop serving. Clones share it; a queue looks at it before each chain, so that
/// nobody waits for more than the one request in hand.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks to stop, or takes that back.
    pub(crate) fn set(&self, wanted: bool) {
        // Whoever sets this takes a lock next, which orders what follows; this is only a hint.
        self.0.store(wanted, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
