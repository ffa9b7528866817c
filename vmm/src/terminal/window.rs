//! The size of the terminal's window, and its changes.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

mod request {
    #![allow(unsafe_code, missing_docs, clippy::undocumented_unsafe_blocks)]
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// Returns the columns and rows of the terminal at stdout, or `None` if it is not a terminal.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(unsafe_code, reason = "no safe way to ask for it")]
    // SAFETY: TIOCGWINSZ fills in our winsize.
    let asked = unsafe { request::window_size(io::stdout().as_raw_fd(), &raw mut size) };
    asked.ok().map(|_| (size.ws_col, size.ws_row))
}

/// Watches for changes (SIGWINCH) until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `changed` in another thread after each change. The signal is blocked in all threads
    /// ([`block`](crate::signals::block)).
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn start(changed: impl Fn() + Send + 'static) -> io::Result<Watch> {
        let signals = SigSet::from_iter([Signal::SIGWINCH]);
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let thread = Builder::new()
            .name("window".into())
            .spawn(move || watch(&signals, &stopped, changed))?;
        Ok(Watch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from its limit.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic has already been reported.
            let _ = thread.join();
        }
    }
}

fn watch(signals: &SignalFd, stop: &EventFd, changed: impl Fn()) {
    loop {
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        let [stop, _] = fds;
        if stop.any() == Some(true) {
            return;
        }
        if let Ok(Some(_)) = signals.read_signal() {
            changed();
        }
    }
}
