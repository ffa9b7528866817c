//! Time, the timer interrupt, and waiting with a deadline.

#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use riscv::register::{sie, sstatus, time};

use crate::fdt::Board;
use crate::{Wait, events, hart, sbi};

/// Longest sleep between two polls of a device, in microseconds. An interrupt ends a sleep at once.
/// A lost one costs this much, and the tests of interrupts report it.
const LONGEST_SLEEP: u64 = 10_000;

/// Ticks of the `time` CSR in a second.
static FREQUENCY: AtomicU64 = AtomicU64::new(1);
/// Whether the hart has `stimecmp`.
static SSTC: AtomicBool = AtomicBool::new(false);
/// Timer interrupts so far.
static EXPIRED: AtomicU32 = AtomicU32::new(0);
/// Whether the timer interrupt works, so that WFI is sure to end.
static WORKS: AtomicBool = AtomicBool::new(false);

/// Ticks since some time before the start.
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

/// Enables and tests the timer interrupt, and returns its delay in ticks, negative if it is early.
/// `None` if it does not arrive within 1 s: waits then do not sleep.
pub fn start(board: &Board<'_>) -> Option<i64> {
    FREQUENCY.store(board.timebase, Ordering::Relaxed);
    SSTC.store(board.sstc, Ordering::Relaxed);
    // SAFETY: the trap vector is set.
    unsafe { sie::set_stimer() };
    // SAFETY: as above, and handlers share only atomics with this code.
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

/// Requests a timer interrupt when the `time` CSR reaches `at`, and clears a pending one.
///
/// Like Linux, it uses the hart's own register if there is one, not the firmware: KVM (6.12)
/// forgets a timer set by SBI if the vCPU loses its CPU before it is back in the guest.
fn set(at: u64) {
    if SSTC.load(Ordering::Relaxed) {
        // SAFETY: stimecmp (0x14d) exists with Sstc; only this module uses the timer.
        unsafe { asm!("csrw 0x14d, {0}", in(reg) at, options(nomem, nostack)) };
    } else {
        sbi::set_timer(at);
    }
}

/// The handler of the timer interrupt: clears it until the timer is set again.
pub(crate) fn expired() {
    set(u64::MAX);
    EXPIRED.fetch_add(1, Ordering::Relaxed);
}

/// The deadline of a wait, and the state when it began.
#[derive(Debug)]
pub struct Deadline {
    end: u64,
    /// External interrupts that the waiter has already considered.
    seen: u32,
}

impl Deadline {
    /// A wait with this timeout from now. Create it before the first check of the condition.
    pub fn after(microseconds: u64) -> Self {
        Self { end: now().saturating_add(ticks(microseconds)), seen: events::interrupts() }
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
        // With interrupts off none is taken between the check of the count and WFI, which wakes for
        // a pending one. SAFETY: turning interrupts off breaks nothing.
        unsafe { sstatus::clear_sie() };
        if events::interrupts() == self.seen {
            set(self.end.min(now.saturating_add(ticks(LONGEST_SLEEP))));
            hart::wait_for_interrupt();
        }
        // SAFETY: as in `start`; a pending interrupt is taken here.
        unsafe { sstatus::set_sie() };
        self.seen = events::interrupts();
        true
    }
}

/// Waits for a condition. Returns `false` if it does not hold within this many microseconds.
pub fn until(microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let mut wait = Deadline::after(microseconds);
    while !condition() {
        if !wait.wait() {
            return condition();
        }
    }
    true
}
