//! The clock of counters: read as seldom as possible, from the quickest source.
//!
//! On RISC-V that is the `time` CSR, one instruction, where clock_gettime(2) is 170 though it makes
//! no system call: they were a third of what counting a request cost. So times are kept in ticks,
//! and become nanoseconds in the report.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Ticks since some moment before `began`.
#[cfg(target_arch = "riscv64")]
pub(super) fn ticks(_began: Instant) -> u64 {
    riscv::register::time::read64()
}

/// Ticks since `began`: nanoseconds, where nothing quicker is known to count evenly.
#[cfg(not(target_arch = "riscv64"))]
pub(super) fn ticks(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of one device, for one thread at a time.
///
/// A request is taken when the one before it was used, its call of the host begins when it is
/// taken, and it is used when that call returns: what lies between is counting. So the clock is
/// read once a request, and once when the thread wakes.
pub(super) struct Clock {
    began: Instant,
    /// When it was read last; 0 when that is too long ago to stand for now.
    last: AtomicU64,
    /// Whether the host was called since the last chain was taken.
    called: AtomicBool,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            began: Instant::now(),
            last: AtomicU64::new(0),
            called: AtomicBool::new(false),
        }
    }

    fn read(&self) -> u64 {
        let now = ticks(self.began);
        self.last.store(now, Relaxed);
        now
    }

    /// The device's thread has slept.
    pub(super) fn forget(&self) {
        self.last.store(0, Relaxed);
    }

    /// A chain is taken, or the host is called: now.
    pub(super) fn begins(&self) -> u64 {
        match self.last.load(Relaxed) {
            0 => self.read(),
            last => last,
        }
    }

    /// A chain is taken now.
    pub(super) fn taken(&self) -> u64 {
        self.called.store(false, Relaxed);
        self.begins()
    }

    /// The host has returned now.
    pub(super) fn returned(&self) -> u64 {
        self.called.store(true, Relaxed);
        self.read()
    }

    /// A chain is used now.
    pub(super) fn used(&self) -> u64 {
        match self.called.load(Relaxed) {
            true => self.begins(),
            false => self.read(),
        }
    }
}

/// What ticks are worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    /// So many a second.
    pub(super) frequency: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Ticks {
    /// Of which each is a nanosecond.
    pub(super) const NANOSECONDS: Ticks = Ticks { frequency: SECOND };

    /// Measured since `began`, when `ticks` was read: for hosts that do not report the frequency.
    pub(super) fn measured(began: Instant, first: u64) -> Ticks {
        let passed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let came = ticks(began).saturating_sub(first);
        Ticks {
            frequency: scale(came, SECOND, passed),
        }
    }

    /// `ticks` of them, in nanoseconds.
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
        let ticks = Ticks {
            frequency: 10_000_000,
        };
        assert_eq!(ticks.nanoseconds(35), 3500);
        assert_eq!(ticks.nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Ticks::NANOSECONDS.nanoseconds(7), 7);
        assert_eq!(Ticks { frequency: 0 }.nanoseconds(0), 0);
    }

    #[test]
    fn a_request_ends_when_its_call_returned_and_there_begins_the_next() {
        let clock = Clock::new();
        let taken = clock.taken();
        assert_eq!(clock.begins(), taken);
        let returned = clock.returned();
        assert!(returned >= taken);
        assert_eq!(clock.used(), returned);
        assert_eq!(clock.taken(), returned);
        // Without a call nobody has read the clock since.
        let used = clock.used();
        assert!(used >= returned);
        assert_eq!(clock.begins(), used);
        clock.forget();
        assert!(clock.begins() >= used);
    }
}
