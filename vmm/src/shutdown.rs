//! The end of a run by the user: first the guest is asked to power off, then the run ends, and if
//! that takes long, another signal does not wait for it.

use std::process;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::host::{pidfile, terminal};
use crate::signals::{self, SignalFd};
use crate::stderr;

/// Another signal within this time after the signal that ends a run is the same: timeout(1) and
/// shells signal both the process and its group.
const SAME: Duration = Duration::from_millis(500);

/// The state of an orderly end.
#[derive(Debug)]
pub struct Shutdown {
    /// How long the guest may take.
    timeout: Duration,
    /// When the guest was asked to power off.
    asked: Option<Instant>,
}

/// What a request to power off leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the guest. If that is not possible, end the run.
    Ask,
    /// Nothing: it is the request that came a moment ago.
    Same,
    /// End the run.
    End,
}

impl Shutdown {
    /// The guest may take `timeout` seconds to power off. With 0 it is not asked.
    pub fn new(timeout: u32) -> Shutdown {
        Shutdown { timeout: Duration::from_secs(timeout.into()), asked: None }
    }

    /// Handles a request to power off.
    pub fn request(&mut self) -> Step {
        match self.asked {
            _ if self.timeout.is_zero() => Step::End,
            None => {
                self.asked = Some(Instant::now());
                Step::Ask
            }
            Some(asked) if asked.elapsed() < SAME => Step::Same,
            Some(_) => Step::End,
        }
    }

    /// Whether the guest was asked.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Tells the user that the guest was asked. Returns when to end the run.
    pub fn announce(&self) -> Instant {
        stderr::line(format_args!(
            "asked the guest to power off; the run ends at a second SIGTERM, or after {} s (--shutdown-timeout)",
            self.timeout.as_secs()
        ));
        self.asked.unwrap_or_else(Instant::now) + self.timeout
    }
}

/// Call it after a signal has ended the run, which takes until the current request is complete.
/// From here on another signal ends the process at once. The terminal is restored and the pidfile
/// removed first.
pub fn at_once_by_another_signal() {
    // Without it, the run ends normally.
    let Ok(signals) = SignalFd::new(&signals::ending()) else {
        return;
    };
    let first = Instant::now();
    let end = move || {
        while signals.wait(&signals, None).is_ok() {
            if let Ok(Some(signal)) = signals.take()
                && first.elapsed() >= SAME
            {
                terminal::restore();
                pidfile::remove();
                process::exit(128 + signal);
            }
        }
    };
    // Without this thread, the run ends normally.
    let _ = Builder::new().name("signals".into()).spawn(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_asked_once_and_the_second_request_ends_the_run() {
        let mut shutdown = Shutdown::new(60);
        assert!(!shutdown.is_asked());
        assert_eq!(shutdown.request(), Step::Ask);
        assert_eq!(shutdown.request(), Step::Same);
        assert!(shutdown.is_asked());
        shutdown.asked = Instant::now().checked_sub(SAME);
        assert_eq!(shutdown.request(), Step::End);
    }

    #[test]
    fn without_time_the_guest_is_not_asked() {
        assert_eq!(Shutdown::new(0).request(), Step::End);
    }

    #[test]
    fn the_longest_time_is_a_time() {
        let mut shutdown = Shutdown::new(u32::MAX);
        shutdown.request();
        assert!(shutdown.announce() > Instant::now());
    }
}
