//! How the host tells the console's thread that something has changed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An event that wakes a worker, which waits for its edge.
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
        // Fails only when 2^64 are outstanding: one of them will do.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether somebody is at the far end of a port. Its driver is told (§ 5.3.6.2, PORT_OPEN).
#[derive(Debug)]
pub struct Link {
    open: AtomicBool,
    changed: Signal,
}

impl Link {
    /// A link with nobody there.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new() -> io::Result<Link> {
        Ok(Link {
            open: AtomicBool::new(false),
            changed: Signal::new()?,
        })
    }

    /// Somebody has come, or has gone.
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
