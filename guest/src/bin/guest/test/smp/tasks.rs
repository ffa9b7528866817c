//! The tasks of the other harts.

use core::sync::atomic::{AtomicUsize, Ordering};

use guest::hart::{self, Hart};
use guest::{irq, patch};

/// Additions of one hart to [`COUNT`].
pub(super) const ROUNDS: usize = 20_000;
/// The counter of all harts.
pub(super) static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Sets its word to 1 (it spins), and spins until the word is 2.
pub(super) fn spin(hart: &'static Hart) -> usize {
    hart.word.store(1, Ordering::Release);
    while hart.word.load(Ordering::Acquire) != 2 {
        core::hint::spin_loop();
    }
    0
}

/// Sends an IPI to the boot hart, and returns SBI's answer.
pub(super) fn ring_boot(_: &'static Hart) -> usize {
    hart::of(0).ring().error
}

/// Counts, in steps of one, by two kinds of atomic operation.
pub(super) fn count(_: &'static Hart) -> usize {
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            COUNT.fetch_add(1, Ordering::Relaxed);
        } else {
            // Load-reserved and store-conditional, which fail if another hart intervenes.
            let (order, mut seen) = (Ordering::Relaxed, COUNT.load(Ordering::Relaxed));
            while let Err(now) = COUNT.compare_exchange_weak(seen, seen + 1, order, order) {
                seen = now;
            }
        }
    }
    0
}

/// Runs the code that the boot hart has just rewritten.
pub(super) fn call(_: &'static Hart) -> usize {
    patch::call()
}

/// Sleeps until an IPI, and returns SBI's answer.
pub(super) fn suspend(hart: &'static Hart) -> usize {
    hart.suspend().error
}

/// Stops; returns the error if it cannot.
pub(super) fn stop(hart: &'static Hart) -> usize {
    hart.stop().error
}

/// Takes over the source whose number is in its word. Returns 1 on success.
pub(super) fn listen(hart: &'static Hart) -> usize {
    irq::listen(source(hart)).into()
}

/// Undoes `listen`.
pub(super) fn ignore(hart: &'static Hart) -> usize {
    irq::ignore(source(hart));
    0
}

fn source(hart: &Hart) -> u32 {
    u32::try_from(hart.word.load(Ordering::Relaxed)).unwrap_or(0)
}
