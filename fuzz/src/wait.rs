//! Waiting for a device's thread.

use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Longer than any correct operation takes. It is processor time of this process: on a busy
/// machine, at the lowest priority, a thread may wait longer for a processor.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Waits until `done` returns true. Panics if that takes too long.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = used() + TIMEOUT;
    while !done() {
        assert!(used() < end, "waited for {what} in vain");
        thread::yield_now();
    }
}

fn used() -> Duration {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    clock_gettime(clock).expect("every Linux has it").into()
}
