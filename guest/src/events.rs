//! Two counters that connect interrupt handlers with the code that waits for them.
//!
//! The handler ([`crate::irq`]) counts external interrupts, and a waiter ([`crate::timer`])
//! compares the count before it sleeps. The waiter counts its steps, and the handler treats many
//! interrupts within one step as a storm. The two do not depend on each other.

use core::sync::atomic::{AtomicU32, Ordering};

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);

/// External interrupts so far, from any source. Wraps around.
pub(crate) fn interrupts() -> u32 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// Counts an external interrupt.
pub(crate) fn count_interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Steps of waiting code so far. Wraps around.
pub(crate) fn steps() -> u32 {
    STEPS.load(Ordering::Relaxed)
}

/// Counts a step: the program makes progress between interrupts.
pub(crate) fn count_step() {
    STEPS.fetch_add(1, Ordering::Relaxed);
}
