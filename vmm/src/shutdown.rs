//! The end of a run that takes long: another signal does not wait for it.

use std::process;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::host::{pidfile, terminal};
use crate::signals::{self, SignalFd};

/// Another signal within this time after the signal that ends a run is the same: timeout(1) and
/// shells signal both the process and its group.
const SAME: Duration = Duration::from_millis(500);

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
