//! The clock of counters: read as rarely as possible, from the fastest source.
//!
//! On RISC-V that is the `time` CSR, which takes one instruction. clock_gettime(2) takes 170 even
//! without a system call, which was a third of the cost of counting a request. So times are kept in
//! ticks, and converted to nanoseconds in the report.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Ticks since an unknown moment before `began`.
#[cfg(target_arch = "riscv64")]
pub(super) fn ticks(_began: Instant) -> u64 {
    riscv::register::time::read64()
}

/// Ticks since `began`: nanoseconds, as no faster clock is known to be steady.
#[cfg(not(target_arch = "riscv64"))]
pub(super) fn ticks(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of one device, for one thread at a time.
///
/// A request is taken when the previous one was used, its host call begins when it is taken, and it
/// is used when that call returns: nothing but counting happens in between. So the clock is read
/// once per request, and once when the thread wakes.
pub(super) struct Clock {
    began: Instant,
    /// The time of the last read; 0 if it is too old to be used as now.
    last: AtomicU64,
    /// Whether there was a host call since the last chain was taken.
    called: AtomicBool,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { began: Instant::now(), last: AtomicU64::new(0), called: AtomicBool::new(false) }
    }

    fn read(&self) -> u64 {
        let now = ticks(self.began);
        self.last.store(now, Relaxed);
        now
    }

    /// Discards the last time, after the device's thread has slept.
    pub(super) fn forget(&self) {
        self.last.store(0, Relaxed);
    }

    /// The time at which a chain is taken or a host call begins.
    pub(super) fn begins(&self) -> u64 {
        match self.last.load(Relaxed) {
            0 => self.read(),
            last => last,
        }
    }

    /// The time at which a chain is taken.
    pub(super) fn taken(&self) -> u64 {
        self.called.store(false, Relaxed);
        self.begins()
    }

    /// The time at which a host call returns.
    pub(super) fn returned(&self) -> u64 {
        self.called.store(true, Relaxed);
        self.read()
    }

    /// The time at which a chain is used.
    pub(super) fn used(&self) -> u64 {
        match self.called.load(Relaxed) {
            true => self.begins(),
            false => self.read(),
        }
    }
}

/// The length of a tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    /// Ticks per second.
    pub(super) frequency: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Ticks {
    /// Ticks of a nanosecond.
    pub(super) const NANOSECONDS: Ticks = Ticks { frequency: SECOND };

    /// Measures the length since `began`, when the clock was at `first`, for hosts that do not
    /// report the frequency.
    pub(super) fn measured(began: Instant, first: u64) -> Ticks {
        let passed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let came = ticks(began).saturating_sub(first);
        Ticks { frequency: scale(came, SECOND, passed) }
    }

    /// Converts `ticks` to nanoseconds.
    pub(super) fn nanoseconds(self, ticks: u64) -> u64 {
        scale(ticks, SECOND, self.frequency)
    }
}

/// `value` × `by` / `of`.
fn scale(value: u64, by: u64, of: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(by) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_and_saturate() {
        let ticks = Ticks { frequency: 10_000_000 };
        assert_eq!(ticks.nanoseconds(35), 3500);
        assert_eq!(ticks.nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Ticks::NANOSECONDS.nanoseconds(7), 7);
        assert_eq!(Ticks { frequency: 0 }.nanoseconds(0), 0);
    }

    #[test]
    fn a_request_ends_when_its_call_returns_and_the_next_begins_then() {
        let clock = Clock::new();
        let taken = clock.taken();
        assert_eq!(clock.begins(), taken);
        let returned = clock.returned();
        assert!(returned >= taken);
        assert_eq!(clock.used(), returned);
        assert_eq!(clock.taken(), returned);
        // Without a call the clock was not read since.
        let used = clock.used();
        assert!(used >= returned);
        assert_eq!(clock.begins(), used);
        clock.forget();
        assert!(clock.begins() >= used);
    }
}
