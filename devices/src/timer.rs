//! A timer that wakes a device's thread once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer whose file becomes readable once after each [`set`](Self::set).
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        timerfd_create(TimerfdClockId::Monotonic, flags)
            .map(Timer)
            .map_err(io::Error::from)
    }

    /// Makes it expire after `delay`, instead of an earlier one; never if that is zero.
    pub(crate) fn set(&self, delay: Duration) {
        let it_value = Timespec::try_from(delay).unwrap_or_default();
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        // It fails for no time that a `Timespec` can hold.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
    }

    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        let left = rustix::time::timerfd_gettime(&self.0).unwrap();
        left.it_value != Timespec::default()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
