//! Feature negotiation, on every device.

use guest::mmio::offset;
use guest::tap::{Point, Verdict};
use guest::virtio::{feature, status};
use guest::{Error, Registers, ensure};

use super::{Rig, probe};

pub(super) const POINTS: u32 = 4;

pub(super) fn run(rig: &mut Rig<'_>) {
    let verdict = version_1(rig);
    rig.tap.point("virtio: VERSION_1 is offered", verdict);
    let verdict = all_offered(rig);
    rig.tap.point(
        "virtio: FEATURES_OK sticks for all that is offered, twice",
        verdict,
    );
    let verdict = unoffered(rig);
    let name = "virtio: FEATURES_OK is refused for a bit that is not offered";
    if rig.board.model.contains("qemu") {
        rig.tap.known(
            name,
            verdict,
            "QEMU's virtio-mmio drops the bit instead (virtio 2.2.2)",
        );
    } else {
        rig.tap.point(name, verdict);
    }
    let verdict = reset(rig);
    rig.tap
        .point("virtio: a reset clears status and queues", verdict);
}

fn version_1(rig: &Rig<'_>) -> Verdict {
    for slot in rig.board.slots() {
        if let Some(device) = probe(slot)? {
            let offered = device.offered();
            ensure!(
                offered & feature::VERSION_1 != 0,
                "{:#x}: {offered:#x}",
                slot.base
            );
        }
    }
    Ok(Point::Pass)
}

fn all_offered(rig: &Rig<'_>) -> Verdict {
    for slot in rig.board.slots() {
        let Some(mut device) = probe(slot)? else {
            continue;
        };
        for _ in 0..2 {
            device.negotiate(device.offered())?;
        }
        device.reset()?;
    }
    Ok(Point::Pass)
}

fn unoffered(rig: &Rig<'_>) -> Verdict {
    for slot in rig.board.slots() {
        let Some(mut device) = probe(slot)? else {
            continue;
        };
        let offered = device.offered();
        // The highest bit that is not offered; there is always one.
        let bit = 1 << (63 - (!offered).leading_zeros());
        device.reset()?;
        for bit in [status::ACKNOWLEDGE, status::ACKNOWLEDGE | status::DRIVER] {
            device.registers().write(offset::STATUS, bit);
        }
        let answer = device.accept(offered | bit);
        device.reset()?;
        let refused = matches!(answer, Err(Error::FeaturesRefused(_)));
        ensure!(
            refused,
            "{:#x}: {bit:#x} accepted, {offered:#x} offered",
            slot.base
        );
    }
    Ok(Point::Pass)
}

fn reset(rig: &mut Rig<'_>) -> Verdict {
    let Rig { board, dma, .. } = rig;
    for slot in board.slots() {
        let Some(mut device) = probe(slot)? else {
            continue;
        };
        device.negotiate(0)?;
        device.queue(0, 8, dma)?;
        device.start();
        device.alive()?;
        device.reset()?;
        let registers = device.registers();
        registers.write(offset::QUEUE_SEL, 0);
        let ready = registers.read(offset::QUEUE_READY);
        ensure!(
            ready == 0,
            "{:#x}: QueueReady is {ready} after a reset",
            slot.base
        );
        let pending = registers.read(offset::INTERRUPT_STATUS);
        ensure!(
            pending == 0,
            "{:#x}: InterruptStatus is {pending:#x}",
            slot.base
        );
    }
    Ok(Point::Pass)
}
