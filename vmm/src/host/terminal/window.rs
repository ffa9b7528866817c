//! The size of the terminal's window, and its changes.

use std::io::{self, PipeWriter, pipe};
use std::thread::{Builder, JoinHandle};

use rustix::termios::tcgetwinsize;

use crate::signals::SignalFd;

/// Returns the columns and rows of the terminal at stdout, or `None` if it is not a terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Watches for changes (SIGWINCH) until it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Closed to stop the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `changed` in another thread after each change. The signal is blocked in all threads
    /// ([`block`](crate::signals::block)).
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn start(changed: impl Fn() + Send + 'static) -> io::Result<Watch> {
        let signals = SignalFd::new(&[libc::SIGWINCH])?;
        let (stopped, stop) = pipe()?;
        let watch = move || {
            while let Ok(false) = signals.wait(&stopped, None) {
                if let Ok(Some(_)) = signals.take() {
                    changed();
                }
            }
        };
        let thread = Builder::new().name("window".into()).spawn(watch)?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has already been reported.
            let _ = thread.join();
        }
    }
}
