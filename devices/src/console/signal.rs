//! Events by which the host notifies the console's thread of changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An edge-triggered event that wakes the device's thread.
#[derive(Debug)]
pub(super) struct Signal(OwnedFd);

impl Signal {
    pub(super) fn new() -> io::Result<Signal> {
        Ok(Signal(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(super) fn raise(&self) {
        // Fails only when 2^64 are outstanding: one is enough.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

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
