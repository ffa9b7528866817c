//! Time, the timer interrupt, and waiting with a deadline.

#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use riscv::register::{sie, sstatus, time};

use crate::fdt::Board;
use crate::{Wait, events, sbi};

/// Longest sleep between two looks at a device, in microseconds. An interrupt ends a sleep at
/// once; one that is lost costs this much, and the tests of interrupts report it.
const LONGEST_SLEEP: u64 = 10_000;

/// Ticks of the `time` CSR in a second.
static FREQUENCY: AtomicU64 = AtomicU64::new(1);
/// Whether the hart has `stimecmp`.
static SSTC: AtomicBool = AtomicBool::new(false);
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

/// Turns the timer interrupt on and tries it, and gives the ticks by which it came late; negative
/// when it came early. `None` when it does not come within 1 s: waits then do not sleep.
pub fn start(board: &Board<'_>) -> Option<i64> {
    FREQUENCY.store(board.timebase, Ordering::Relaxed);
    SSTC.store(board.sstc, Ordering::Relaxed);
    // SAFETY: the trap vector is in place.
    unsafe { sie::set_stimer() };
    // SAFETY: as above, and all that handlers share with this code is atomic.
    unsafe { sstatus::set_sie() };
    let before = EXPIRED.load(Ordering::Relaxed);
    let due = now() + ticks(1_000);
    let end = now() + ticks(1_000_000);
    set(due);
    while now() < end {
        if EXPIRED.load(Ordering::Relaxed) != before {
            WORKS.store(true, Ordering::Relaxed);
            return Some(now().wrapping_sub(due).cast_signed());
        }
        core::hint::spin_loop();
    }
    None
}

/// Asks for a timer interrupt when the `time` CSR reaches `at`, and takes a pending one back.
///
/// As Linux does, by the hart's own register if there is one, and not by the firmware: KVM
/// (6.12) forgets a timer set by SBI when the vCPU loses its CPU before it is back in the guest.
fn set(at: u64) {
    if SSTC.load(Ordering::Relaxed) {
        // SAFETY: stimecmp (0x14d) exists where there is Sstc; the timer is ours.
        unsafe { asm!("csrw 0x14d, {0}", in(reg) at, options(nomem, nostack)) };
    } else {
        sbi::set_timer(at);
    }
}

/// The handler of the timer interrupt: takes it back until somebody sets the timer again.
pub(crate) fn expired() {
    set(u64::MAX);
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
            seen: events::interrupts(),
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
        events::count_step();
        if !WORKS.load(Ordering::Relaxed) {
            core::hint::spin_loop();
            return true;
        }
        // With interrupts off none can slip in between the look at the count and WFI, which
        // wakes up for a pending one all the same.
        // SAFETY: turning interrupts off breaks nothing.
        unsafe { sstatus::clear_sie() };
        if events::interrupts() == self.seen {
            set(self.end.min(now.saturating_add(ticks(LONGEST_SLEEP))));
            riscv::asm::wfi();
        }
        // SAFETY: as in `start`; a pending interrupt is taken here.
        unsafe { sstatus::set_sie() };
        self.seen = events::interrupts();
        true
    }
}

/// Waits for a condition. `false` if it does not hold within so many microseconds.
pub fn until(microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let mut wait = Deadline::after(microseconds);
    while !condition() {
        if !wait.wait() {
            return condition();
        }
    }
    true
}
