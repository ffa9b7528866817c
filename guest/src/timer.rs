//! Time, the timer interrupt, and waiting with a deadline.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use riscv::register::{sie, sstatus, time};

use crate::{Wait, irq, sbi};

/// Longest sleep between two looks at a device, in microseconds. An interrupt ends a sleep at
/// once; one that is lost costs this much, and the tests of interrupts report it.
const LONGEST_SLEEP: u64 = 10_000;

/// Ticks of the `time` CSR in a second.
static FREQUENCY: AtomicU64 = AtomicU64::new(1);
/// Timer interrupts so far.
static EXPIRED: AtomicU32 = AtomicU32::new(0);
/// Whether the timer interrupt has been seen to work, so that WFI is sure to end.
static WORKS: AtomicBool = AtomicBool::new(false);

/// Ticks since some moment before the start.
pub fn now() -> u64 {
    time::read64()
}

/// `microseconds` in ticks, at least 1.
pub fn ticks(microseconds: u64) -> u64 {
    let ticks =
        u128::from(microseconds) * u128::from(FREQUENCY.load(Ordering::Relaxed)) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
}

/// `ticks` in microseconds, rounded down.
pub fn microseconds(ticks: u64) -> u64 {
    let frequency = FREQUENCY.load(Ordering::Relaxed).max(1);
    let microseconds = u128::from(ticks) * 1_000_000 / u128::from(frequency);
    u64::try_from(microseconds).unwrap_or(u64::MAX)
}

/// How often [`start`] sets the timer before it gives up.
const ATTEMPTS: u32 = 4;

/// The timer interrupt that [`start`] saw.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// Ticks after it was due; negative when it came early.
    pub late: i64,
    /// How often the timer was set until it came. More than once has been seen, about once in 40
    /// starts, under KVM on an emulated host that had more to run than processors to run it on.
    pub attempts: u32,
}

/// Turns the timer interrupt on and tries it: `None` when it does not come within 1 s of being
/// set, however often that is done. Waits then do not sleep.
pub fn start(frequency: u64) -> Option<First> {
    FREQUENCY.store(frequency, Ordering::Relaxed);
    // SAFETY: the trap vector is in place.
    unsafe { sie::set_stimer() };
    // SAFETY: as above, and all that handlers share with this code is atomic.
    unsafe { sstatus::set_sie() };
    (1..=ATTEMPTS).find_map(|attempts| attempt().map(|late| First { late, attempts }))
}

/// Sets the timer once, and gives the ticks by which its interrupt came late.
fn attempt() -> Option<i64> {
    let before = EXPIRED.load(Ordering::Relaxed);
    let due = now() + ticks(1_000);
    let end = now() + ticks(1_000_000);
    sbi::set_timer(due);
    while now() < end {
        if EXPIRED.load(Ordering::Relaxed) != before {
            WORKS.store(true, Ordering::Relaxed);
            return Some(now().wrapping_sub(due).cast_signed());
        }
        core::hint::spin_loop();
    }
    None
}

/// The handler of the timer interrupt: takes it back until somebody sets the timer again.
pub(crate) fn expired() {
    sbi::set_timer(u64::MAX);
    EXPIRED.fetch_add(1, Ordering::Relaxed);
}

/// The end of a wait, and what had happened when it began.
#[derive(Debug)]
pub struct Deadline {
    end: u64,
    /// External interrupts that the waiter has had a chance to look at.
    seen: u32,
}

impl Deadline {
    /// A wait that may last so long from now. Make it before looking for what is waited for.
    pub fn after(microseconds: u64) -> Self {
        Self {
            end: now().saturating_add(ticks(microseconds)),
            seen: irq::events(),
        }
    }
}

impl Wait for Deadline {
    /// Sleeps until an interrupt, the deadline or [`LONGEST_SLEEP`], whichever is first.
    fn wait(&mut self) -> bool {
        let now = now();
        if now >= self.end {
            return false;
        }
        irq::progress();
        if !WORKS.load(Ordering::Relaxed) {
            core::hint::spin_loop();
            return true;
        }
        // With interrupts off none can slip in between the look at the count and WFI, which
        // wakes up for a pending one all the same.
        // SAFETY: turning interrupts off breaks nothing.
        unsafe { sstatus::clear_sie() };
        if irq::events() == self.seen {
            sbi::set_timer(self.end.min(now.saturating_add(ticks(LONGEST_SLEEP))));
            riscv::asm::wfi();
        }
        // SAFETY: as in `start`; a pending interrupt is taken here.
        unsafe { sstatus::set_sie() };
        self.seen = irq::events();
        true
    }
}
