//! Waiting for a device's thread.

use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nothing that works takes so long. It is time that this process had on a processor: on a busy
/// machine, at the lowest priority, a thread may have to wait for its turn for longer than that.
const PATIENCE: Duration = Duration::from_secs(8);

/// Waits until `done`. Panics when that takes too long.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = used() + PATIENCE;
    while !done() {
        assert!(used() < end, "waited for {what} in vain");
        thread::yield_now();
    }
}

fn used() -> Duration {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    clock_gettime(clock).expect("every Linux has it").into()
}
