//! The life of a device: features, status, reset, and the reset of one queue (§2.1 to §2.6, §3.1).

use guest::mmio::offset;
use guest::tap::{Failure, Verdict};
use guest::virtio::{feature, status};
use guest::{Registers, ensure};

use super::transport::{LATENCY, offer_plain, ready, used};
use super::{ALL, PASS, Test, needed, test};
use crate::device::{Device, Kind, until};

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("2.1.2", "status reads 0 after a reset", ALL, |device| { device.reset()?; PASS }),
    test("2.1", "status reads the bits that the driver set", ALL, status_bits),
    test("2.1.1", "FAILED can be set, and a reset heals it", ALL, failed),
    test("2.1.2", "no buffer is used before DRIVER_OK", ALL, before_driver_ok),
    test("2.2", "VERSION_1 is offered", ALL, version_1),
    test("2.2.2", "FEATURES_OK holds for VERSION_1 alone", ALL, |device| { device.negotiate(0)?; PASS }),
    test("2.2.2", "FEATURES_OK holds for everything that is offered", ALL, |device| accepted(device, u64::MAX)),
    test("2.2.2", "FEATURES_OK holds for each offered bit alone", ALL, each_feature),
    test("2.2.2", "FEATURES_OK holds again after a reset", ALL, accepted_again),
    test("2.2.2", "FEATURES_OK is refused for a bit that was not offered", ALL, unoffered),
    test("2.2.2", "after a refusal a second attempt succeeds", ALL, second_attempt),
    test("2.4.1", "after a reset the rings are not touched", ALL, rings_after_reset),
    test("2.4.1", "after a reset there is no interrupt", ALL, no_interrupt_after_reset),
    test("2.4", "twenty resets one after the other", ALL, many_resets),
    test("2.4", "a reset leaves the other devices alone", ALL, |device| { device.reset()?; PASS }),
    test("2.5.3", "configuration space is readable before FEATURES_OK", ALL, early_config),
    test("3.1.1", "the device is live after the sequence of a driver", ALL, sequence),
    test("2.6.1", "RING_RESET: a queue that was reset is used no more", ALL, ring_reset),
    test("2.6.1", "RING_RESET: the queue works again, in its new place", ALL, ring_reset_and_back),
    test("4.2.2.1", "RING_RESET: QueueReset reads 0 after a reset and after QueueReady", ALL, queue_reset_register),
];

fn status_bits(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    let wanted = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    let found = device.status();
    ensure!(found == wanted, "{found:#x}, not {wanted:#x}");
    device.transport.start();
    let found = device.status();
    let wanted = wanted | status::DRIVER_OK;
    ensure!(found == wanted, "{found:#x}, not {wanted:#x}");
    PASS
}

fn failed(device: &mut Device) -> Verdict {
    let before = device.status();
    device
        .registers
        .write(offset::STATUS, before | status::FAILED);
    let found = device.status();
    ensure!(found & status::FAILED != 0, "status {found:#x}");
    PASS
}

fn before_driver_ok(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    offer_plain(device);
    device.stays_quiet()?;
    device.transport.start();
    device.kick(device.queue());
    let (_, written) = device.answer()?;
    device.check(1, written)?;
    PASS
}

fn version_1(device: &mut Device) -> Verdict {
    let offered = device.transport.offered();
    ensure!(offered & feature::VERSION_1 != 0, "features {offered:#x}");
    PASS
}

fn accepted(device: &mut Device, wanted: u64) -> Verdict {
    let offered = device.transport.offered();
    let features = device.negotiate(wanted)?;
    ensure!(
        features == offered & wanted | feature::VERSION_1,
        "{features:#x} of {offered:#x}"
    );
    PASS
}

fn each_feature(device: &mut Device) -> Verdict {
    let offered = device.transport.offered();
    for bit in (0..64).map(|bit| 1 << bit).filter(|bit| offered & bit != 0) {
        device
            .negotiate(bit)
            .map_err(|failure| Failure::new(format_args!("bit {bit:#x}: {failure}")))?;
    }
    PASS
}

fn accepted_again(device: &mut Device) -> Verdict {
    for _ in 0..3 {
        device.negotiate(feature::INDIRECT_DESC | feature::EVENT_IDX)?;
    }
    PASS
}

/// Asks for the first bit that is not offered: FEATURES_OK must not hold.
fn refuse(device: &mut Device) -> Result<(), Failure> {
    let offered = device.transport.offered();
    device.reset()?;
    device.registers.write(offset::STATUS, status::ACKNOWLEDGE);
    let driver = status::ACKNOWLEDGE | status::DRIVER;
    device.registers.write(offset::STATUS, driver);
    let bit = 1 << (!offered).trailing_zeros();
    let accepted = device.transport.accept(feature::VERSION_1 | bit);
    ensure!(
        accepted.is_err(),
        "bit {bit:#x} was accepted, of {offered:#x}"
    );
    Ok(())
}

fn unoffered(device: &mut Device) -> Verdict {
    refuse(device)?;
    PASS
}

fn second_attempt(device: &mut Device) -> Verdict {
    refuse(device).and_then(|()| device.live(0))?;
    device.plain()?;
    PASS
}

fn rings_after_reset(device: &mut Device) -> Verdict {
    device.reset()?;
    device.memory.fill(0x11);
    offer_plain(device);
    device.stays_quiet()?;
    PASS
}

fn no_interrupt_after_reset(device: &mut Device) -> Verdict {
    used(device)?;
    device.reset()?;
    offer_plain(device);
    device.stays_quiet()?;
    let found = device.interrupts();
    ensure!(found == 0, "InterruptStatus is {found:#x}");
    PASS
}

fn many_resets(device: &mut Device) -> Verdict {
    for _ in 0..20 {
        device.live(0)?;
        device.plain()?;
    }
    PASS
}

fn early_config(device: &mut Device) -> Verdict {
    needed!(device.kind != Kind::Entropy, "it has none");
    let words = [0, 4].map(|at| offset::CONFIG + at);
    let live = words.map(|at| device.registers.read(at));
    device.reset()?;
    let early = words.map(|at| device.registers.read(at));
    ensure!(live == early, "{early:x?} before, {live:x?} after");
    PASS
}

fn sequence(device: &mut Device) -> Verdict {
    device.live(feature::INDIRECT_DESC | feature::EVENT_IDX)?;
    device.plain()?;
    PASS
}

/// Resets one queue.
pub(super) fn reset_queue(device: &Device, queue: u16) -> Result<(), Failure> {
    device.registers.write(offset::QUEUE_SEL, queue.into());
    device.registers.write(offset::QUEUE_RESET, 1);
    let done = until(LATENCY, || device.registers.read(offset::QUEUE_RESET) == 0);
    ensure!(done, "QueueReset stays 1");
    ensure!(
        ready(device, queue) == 0,
        "QueueReady is still 1 after the queue's reset"
    );
    Ok(())
}

fn ring_reset(device: &mut Device) -> Verdict {
    let features = device.live(feature::RING_RESET)?;
    needed!(
        features & feature::RING_RESET != 0,
        "RING_RESET is not offered"
    );
    device.plain()?;
    reset_queue(device, device.queue())?;
    offer_plain(device);
    device.stays_quiet()?;
    PASS
}

fn ring_reset_and_back(device: &mut Device) -> Verdict {
    let features = device.live(feature::RING_RESET)?;
    needed!(
        features & feature::RING_RESET != 0,
        "RING_RESET is not offered"
    );
    for size in [8, 4, 32] {
        device.plain()?;
        reset_queue(device, device.queue())?;
        device.replace_rings(size);
        let queue = device.queue();
        device.ring().attach(&device.registers, queue);
        device.plain()?;
    }
    PASS
}

fn queue_reset_register(device: &mut Device) -> Verdict {
    let features = device.live(feature::RING_RESET)?;
    needed!(
        features & feature::RING_RESET != 0,
        "RING_RESET is not offered"
    );
    device
        .registers
        .write(offset::QUEUE_SEL, device.queue().into());
    let live = device.registers.read(offset::QUEUE_RESET);
    device.reset()?;
    device
        .registers
        .write(offset::QUEUE_SEL, device.queue().into());
    let after = device.registers.read(offset::QUEUE_RESET);
    ensure!(
        (live, after) == (0, 0),
        "{live} when live, {after} after a reset"
    );
    PASS
}
