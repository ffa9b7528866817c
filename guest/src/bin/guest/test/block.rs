//! The block devices: the first writable one, and the first read-only one.

mod disk;
mod requests;

use guest::tap::{Failure, Point, Verdict};
use guest::virtio::device;
use guest::{Block, block, irq};

use super::{Rig, deadline, devices, interrupt};
use disk::{Disk, QUEUE_SIZE};

pub(super) const POINTS: u32 = 11;

/// Why a point is skipped.
const NO_DISK: Point = Point::Skip("no block device");
const NO_WRITABLE: Point = Point::Skip("no writable block device");
const NO_READ_ONLY: Point = Point::Skip("no read-only block device");

pub(super) fn run(rig: &mut Rig<'_>) {
    let verdict = identities(rig);
    rig.tap.point("block: identity and capacity", verdict);
    let writable = Disk::open(rig, false).transpose();
    each(
        rig,
        writable,
        NO_WRITABLE,
        &[
            ("block: what is written is read back", requests::reads_back),
            (
                "block: odd segments over several pages",
                requests::odd_segments,
            ),
            ("block: several requests in flight", requests::in_flight),
            ("block: indirect descriptors", requests::indirect),
            ("block: flush", requests::flush),
            ("block: works without any optional feature", requests::plain),
        ],
    );
    let any = Disk::open(rig, false)
        .or_else(|| Disk::open(rig, true))
        .transpose();
    each(
        rig,
        any,
        NO_DISK,
        &[
            (
                "block: IOERR for a read beyond the capacity",
                requests::beyond,
            ),
            ("block: UNSUPP for an unknown request", requests::unknown),
            (
                "block: its interrupt arrives, with the right source, once",
                interrupts,
            ),
        ],
    );
    let read_only = Disk::open(rig, true).transpose();
    each(
        rig,
        read_only,
        NO_READ_ONLY,
        &[(
            "block: IOERR for a write to a read-only disk, data unchanged",
            requests::read_only,
        )],
    );
}

/// One test: a name and a function of a disk.
type Test = (&'static str, fn(&mut Rig<'_>, &mut Disk) -> Verdict);

fn each(rig: &mut Rig<'_>, mut disk: Result<Option<Disk>, Failure>, absent: Point, tests: &[Test]) {
    for (name, test) in tests {
        let verdict = match &mut disk {
            Ok(Some(disk)) => test(rig, disk),
            Ok(None) => Ok(absent),
            Err(failure) => Err(*failure),
        };
        rig.tap.point(name, verdict);
    }
}

/// Reads the identity of every disk.
fn identities(rig: &mut Rig<'_>) -> Verdict {
    let mut answer = Ok(NO_DISK);
    for (slot, transport) in devices(rig.board, device::BLOCK) {
        irq::watch(slot);
        let mut disk = Block::new(transport, &mut rig.dma, block::WANTED, QUEUE_SIZE)?;
        let id = disk.id(&mut deadline())?;
        let id = id.split(|byte| *byte == 0).next().unwrap_or_default();
        rig.tap.comment(format_args!(
            "{:#x}: disk \"{}\", {} sectors{}, features {:#x}",
            slot.base,
            id.escape_ascii(),
            disk.capacity(),
            if disk.read_only() { ", read-only" } else { "" },
            disk.transport().features(),
        ));
        guest::ensure!(disk.capacity() > 0, "{:#x}: capacity 0", slot.base);
        disk.into_transport().reset()?;
        answer = Ok(Point::Pass);
    }
    answer
}

fn interrupts(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    interrupt::follows(disk.slot, || {
        let mut sector = [0; block::SECTOR];
        Ok(disk.block.read(0, &mut sector, &mut deadline())?)
    })
}
