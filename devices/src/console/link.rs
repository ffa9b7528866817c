//! Whether a port's client is connected.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::signal::Signal;

/// Whether a client is connected to a port. The driver gets PORT_OPEN messages for it (§ 5.3.6.2).
#[derive(Debug)]
pub struct Link {
    open: AtomicBool,
    changed: Signal,
}

impl Link {
    /// A link without a client.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new() -> io::Result<Link> {
        Ok(Link { open: AtomicBool::new(false), changed: Signal::new()? })
    }

    /// Sets whether a client is connected.
    pub fn set(&self, open: bool) {
        if self.open.swap(open, Ordering::SeqCst) != open {
            self.changed.raise();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn changes(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}
