//! Interrupts of devices.

use guest::fdt::Slot;
use guest::irq::{self, Seen};
use guest::mmio::{INTERRUPT_USED, offset};
use guest::tap::{Failure, Point, Verdict};
use guest::timer::{Deadline, until};
use guest::{MmioRegisters, Registers, Wait, ensure};

/// Longest time from a completed request to its interrupt, in microseconds.
const LATENCY: u64 = 1_000_000;
/// How long to watch for unexpected interrupts, in microseconds.
const QUIET: u64 = 20_000;
/// Most interrupts per request: spurious ones are allowed, a storm is not.
const MOST: u32 = 3;

/// Lets `work` complete one request of the device in `slot`, and checks the interrupts.
pub(super) fn follows(slot: Slot, work: impl FnOnce() -> Result<(), Failure>) -> Verdict {
    ensure!(
        irq::watch(slot),
        "no interrupt controller, or the slot has no source"
    );
    arrives(slot, work, || ())?;
    Ok(Point::Pass)
}

/// As [`follows`], for a source that any hart may watch. If the interrupt does not arrive, calls
/// `nudge` and waits again; returns `true` if that was needed.
pub(super) fn arrives(
    slot: Slot,
    work: impl FnOnce() -> Result<(), Failure>,
    nudge: impl FnOnce(),
) -> Result<bool, Failure> {
    // An interrupt of an earlier, polled request that was not acknowledged keeps the line high,
    // which then has no edge.
    let registers = MmioRegisters::physical(slot.base, guest::mmio::LEN);
    registers.write(
        offset::INTERRUPT_ACK,
        registers.read(offset::INTERRUPT_STATUS),
    );
    let before = irq::seen(slot);
    work()?;
    let delivered = |seen: Seen| seen.count.wrapping_sub(before.count);
    let came = || until(LATENCY, || delivered(irq::seen(slot)) > 0);
    let late = !came();
    if late {
        nudge();
        came();
    }
    let stranger = irq::stranger();
    ensure!(
        stranger.is_none(),
        "source {} came, not {}",
        stranger.unwrap_or(0),
        slot.source
    );
    ensure!(
        delivered(irq::seen(slot)) > 0,
        "source {} did not come within 2 s",
        slot.source
    );

    let mut quiet = Deadline::after(QUIET);
    while quiet.wait() {}
    let seen = irq::seen(slot);
    let count = delivered(seen);
    ensure!(
        !seen.storm && count <= MOST,
        "{count} interrupts for one request"
    );
    ensure!(
        seen.status & INTERRUPT_USED != 0,
        "InterruptStatus never had bit 0"
    );
    let left = registers.read(offset::INTERRUPT_STATUS);
    ensure!(left == 0, "InterruptStatus is {left:#x} after the ACK");
    ensure!(
        !irq::pending(slot),
        "source {} is still pending after the ACK",
        slot.source
    );
    Ok(late)
}
