//! An interrupt line whose level can be read, for the unit tests (src/rig.rs) and for these.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::IrqLine;

/// A wire that records its level and its rises.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    high: Arc<AtomicBool>,
    edges: Arc<AtomicU32>,
}

impl Wire {
    pub(crate) fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }

    pub(crate) fn edges(&self) -> u32 {
        self.edges.load(Ordering::SeqCst)
    }
}

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::SeqCst) && high {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}
