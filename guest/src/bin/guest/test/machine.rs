//! Device tree, timer, interrupt controller, virtio-mmio slots.

use guest::mmio::{self, offset};
use guest::tap::{Failure, Point, Verdict};
use guest::timer;
use guest::{MmioRegisters, Registers, ensure, irq};

use super::{Rig, kind, probe};

pub(super) const POINTS: u32 = 4;

pub(super) fn run(rig: &mut Rig<'_>, hart: usize) {
    let (start, len) = rig.board.memory;
    let Rig { tap, board, .. } = rig;
    tap.comment(format_args!(
        "hart {hart}, memory {start:#x} + {} MiB, timebase {} Hz, model \"{}\"",
        len >> 20,
        board.timebase,
        board.model
    ));
    let verdict = memory_holds_the_guest(rig);
    rig.tap
        .point("the device tree's memory holds this program", verdict);
    let verdict = timer_interrupts(rig);
    rig.tap.point("timer: interrupts, and not early", verdict);
    let verdict = controller(rig);
    rig.tap
        .point("interrupt controller: found in the device tree", verdict);
    let verdict = slots(rig);
    rig.tap.point(
        "virtio-mmio: every slot has magic, version 2 and a vendor",
        verdict,
    );
}

fn memory_holds_the_guest(rig: &Rig<'_>) -> Verdict {
    let (start, len) = rig.board.memory;
    let code = memory_holds_the_guest as fn(&Rig<'_>) -> Verdict as usize as u64;
    ensure!(code >= start && code - start < len, "code at {code:#x}");
    Ok(Point::Pass)
}

fn timer_interrupts(rig: &mut Rig<'_>) -> Verdict {
    let Some(late) = timer::start(rig.board) else {
        let text = "no interrupt within a second";
        return Err(Failure::new(format_args!("{text}")));
    };
    ensure!(late >= 0, "{} ticks early", -late);
    let microseconds = late / i64::try_from(timer::ticks(1)).unwrap_or(1);
    let by = match rig.board.sstc {
        true => "stimecmp",
        false => "SBI",
    };
    rig.tap.comment(format_args!(
        "the timer, set by {by}, came {microseconds} us late"
    ));
    Ok(Point::Pass)
}

fn controller(rig: &mut Rig<'_>) -> Verdict {
    ensure!(
        rig.board.controller.is_some(),
        "none that can interrupt this hart in S-mode"
    );
    if let Some(controller) = rig.board.controller {
        let name = irq::start(controller);
        rig.tap.comment(format_args!("{name}: {controller:x?}"));
    }
    Ok(Point::Pass)
}

fn slots(rig: &mut Rig<'_>) -> Verdict {
    ensure!(rig.board.slots().next().is_some(), "no virtio,mmio node");
    for slot in rig.board.slots() {
        // The probe's errors contain magic and version.
        let Some(device) = probe(slot)? else { continue };
        let vendor = MmioRegisters::physical(slot.base, mmio::LEN).read(offset::VENDOR_ID);
        let (id, offered) = (device.device_id(), device.offered());
        rig.tap.comment(format_args!(
            "{:#x}, source {}: {} (id {id}), vendor {vendor:#x}, features {offered:#x}",
            slot.base,
            slot.source,
            kind(id),
        ));
        ensure!(vendor != 0, "slot {:#x}: vendor 0", slot.base);
    }
    Ok(Point::Pass)
}
