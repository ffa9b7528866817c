//! The requirements on a block device for each kind of request (virtio 1.3 §5.2.6.2).

use guest::block::{Request, SECTOR, Status};
use guest::tap::{Failure, Point, Verdict};
use guest::virtio::feature;
use guest::{Block, Layout, Segment, ensure};

use super::super::{Rig, deadline};
use super::disk::{Disk, QUEUE_SIZE, byte, expect, pattern, verify};

/// Requests that are in flight together.
const FLIGHT: usize = 8;
/// A request type that no version of virtio defines.
const UNKNOWN: u32 = 0x1234_5678;

/// The simplest use: one sector, through the driver's own buffer.
pub(super) fn reads_back(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    one_sector(disk, 0x11)?;
    Ok(Point::Pass)
}

fn one_sector(disk: &mut Disk, seed: u8) -> Result<(), Failure> {
    disk.restoring(|disk| {
        let (first, _) = disk.scratch(1);
        let mut sector = [0; SECTOR];
        for (offset, into) in sector.iter_mut().enumerate() {
            *into = byte(offset, seed);
        }
        disk.block.write(first, &sector, &mut deadline())?;
        let mut back = [0; SECTOR];
        disk.block.read(first, &mut back, &mut deadline())?;
        ensure!(sector == back, "sector {first} reads other than written");
        Ok(())
    })
}

/// Header, data and status split at odd places, with more than a page of data (§2.7.4).
pub(super) fn odd_segments(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    disk.restoring(|disk| disk.framed(disk.scratch(17), 0x22, Layout::Direct))?;
    Ok(Point::Pass)
}

/// The same with an indirect table (§2.7.5.3).
pub(super) fn indirect(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    if disk.block.transport().features() & feature::INDIRECT_DESC == 0 {
        return Ok(Point::Skip("INDIRECT_DESC is not offered"));
    }
    let layout = Layout::Indirect { direct: 0 };
    disk.restoring(|disk| disk.framed(disk.scratch(17), 0x33, layout))?;
    Ok(Point::Pass)
}

/// Several requests with one kick, finished in a different order than submitted.
pub(super) fn in_flight(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    disk.restoring(|disk| {
        let (first, bytes) = disk.scratch(FLIGHT as u64);
        let data = disk.data(bytes);
        pattern(&data, 0x44);
        let mut tokens = [const { None }; FLIGHT];
        for (index, token) in tokens.iter_mut().enumerate().take(bytes / SECTOR) {
            let sector = data.slice(index * SECTOR..(index + 1) * SECTOR);
            let request = Request::write(first + index as u64);
            *token = Some(disk.block.submit(request, &[Segment::readable(&sector)])?);
        }
        for token in tokens.into_iter().flatten().rev() {
            let done = disk.block.finish(token, &mut deadline())?;
            expect(Request::write(first), done, Status::Ok)?;
        }
        data.fill(0);
        disk.succeed(Request::read(first), Segment::writable(&data))?;
        verify(&data, 0x44)
    })?;
    Ok(Point::Pass)
}

pub(super) fn flush(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    if disk.block.transport().features() & guest::block::features::FLUSH == 0 {
        return Ok(Point::Skip("FLUSH is not offered"));
    }
    disk.block.flush(&mut deadline())?;
    Ok(Point::Pass)
}

/// Only VERSION_1: no event index, no indirect tables. Then as before.
pub(super) fn plain(rig: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    let wanted = disk.block.transport().features();
    disk.reopen(rig, 0)?;
    let agreed = disk.block.transport().features();
    let verdict = one_sector(disk, 0x55);
    disk.reopen(rig, wanted)?;
    verdict?;
    ensure!(
        agreed == feature::VERSION_1,
        "features {agreed:#x} agreed on"
    );
    Ok(Point::Pass)
}

/// Wholly and partly beyond the end, and so far beyond that sector · 512 overflows.
pub(super) fn beyond(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    let capacity = disk.block.capacity();
    let data = disk.data(2 * SECTOR);
    for sector in [
        capacity,
        capacity - 1,
        u64::MAX / SECTOR as u64 + 1,
        u64::MAX,
    ] {
        let request = Request::read(sector);
        let segment = Segment::writable(&data);
        let done = disk.block.request(request, &[segment], &mut deadline())?;
        expect(request, done, Status::IoErr)?;
    }
    Ok(Point::Pass)
}

pub(super) fn unknown(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    let request = Request { kind: UNKNOWN, sector: 0 };
    let done = disk.block.request(request, &[], &mut deadline())?;
    expect(request, done, Status::Unsupp)?;
    Ok(Point::Pass)
}

pub(super) fn read_only(_: &mut Rig<'_>, disk: &mut Disk) -> Verdict {
    let (first, _) = disk.scratch(1);
    let mut before = [0; SECTOR];
    disk.block.read(first, &mut before, &mut deadline())?;
    let data = disk.data(SECTOR);
    data.write(0, &before.map(|byte| !byte));
    let request = Request::write(first);
    let done = disk
        .block
        .request(request, &[Segment::readable(&data)], &mut deadline())?;
    let mut after = [0; SECTOR];
    disk.block.read(first, &mut after, &mut deadline())?;
    expect(request, done, Status::IoErr)?;
    ensure!(before == after, "sector {first} changed");
    Ok(Point::Pass)
}

impl Disk {
    /// Initialises the disk again.
    fn reopen(&mut self, rig: &mut Rig<'_>, wanted: u64) -> Result<(), Failure> {
        let transport = super::super::probe(self.slot)?;
        let transport = transport.ok_or(guest::Error::QueueUnavailable(0))?;
        self.block = Block::new(transport, &mut rig.dma, wanted, QUEUE_SIZE)?;
        Ok(())
    }
}
