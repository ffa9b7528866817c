//! Optional features of the block device (§5.2.3).

use guest::bare::{Descriptor, link};
use guest::block::Request;
use guest::mmio::offset;
use guest::tap::{Failure, Verdict};
use guest::{Registers, ensure};

use super::block::{DISCARD, LONG, WRITE_ZEROES, feature, offers, range, written};
use super::{DISK, PASS, Test, needed, test};
use crate::device::{BLANK, Device, Kind};
use crate::disk::{IOERR, OK, UNSUPP, expect};

/// Offsets of fields of the configuration space (§5.2.4), which begins at [`offset::CONFIG`].
mod field {
    pub(super) const SIZE_MAX: usize = 0x108;
    pub(super) const SEG_MAX: usize = 0x10c;
    pub(super) const BLK_SIZE: usize = 0x114;
    pub(super) const PHYSICAL_BLOCK_EXP: usize = 0x118;
    pub(super) const WRITEBACK: usize = 0x120;
    pub(super) const NUM_QUEUES: usize = 0x122;
    pub(super) const MAX_DISCARD_SECTORS: usize = 0x124;
    pub(super) const MAX_WRITE_ZEROES_SECTORS: usize = 0x130;
}

/// The flag of a range of DISCARD or WRITE_ZEROES.
const UNMAP: u32 = 1;

const READ_ONLY: &[Kind] = &[Kind::ReadOnly];

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.2.4", "BLK_SIZE: a power of two of at least 512", DISK, block_size),
    test("5.2.4", "SEG_MAX: at least 1", DISK, |device| limit(device, feature::SEG_MAX, field::SEG_MAX)),
    test("5.2.4", "SIZE_MAX: at least 1", DISK, |device| limit(device, feature::SIZE_MAX, field::SIZE_MAX)),
    test("5.2.5", "CONFIG_WCE: writeback is a byte that can be read and written", DISK, writeback),
    test("5.2.6.2", "CONFIG_WCE: writes succeed with writeback 0", DISK, write_through),
    test("5.2.4", "TOPOLOGY: the fields make sense", DISK, topology),
    test("5.2.4", "MQ: there are num_queues queues", DISK, queues),
    test("5.2.2", "MQ: the last queue is served", DISK, last_queue),
    test("5.2.6", "DISCARD: succeeds, and the sectors around it stay", DISK, discard),
    test("5.2.6.2", "DISCARD: the unmap flag is UNSUPP", DISK, |device| refused(device, DISCARD, UNMAP, UNSUPP)),
    test("5.2.6.2", "DISCARD: an unknown flag is UNSUPP", DISK, |device| refused(device, DISCARD, 0x80, UNSUPP)),
    test("5.2.6.1", "DISCARD: beyond the capacity is IOERR", DISK, |device| range_beyond(device, DISCARD)),
    test("5.2.6", "WRITE_ZEROES: the sectors read as zeroes, those around them stay", DISK, |device| zeroes(device, 0)),
    test("5.2.6", "WRITE_ZEROES: with unmap the same", DISK, |device| zeroes(device, UNMAP)),
    test("5.2.6.2", "WRITE_ZEROES: an unknown flag is UNSUPP", DISK, |device| refused(device, WRITE_ZEROES, 0x80, UNSUPP)),
    test("5.2.6.1", "WRITE_ZEROES: beyond the capacity is IOERR", DISK, |device| range_beyond(device, WRITE_ZEROES)),
    test("5.2.6.2", "RO: a write is IOERR", READ_ONLY, read_only_write),
    test("5.2.6.2", "RO: what was to be written is not there", READ_ONLY, read_only_kept),
    test("5.2.6.2", "RO: WRITE_ZEROES and DISCARD change nothing", READ_ONLY, read_only_ranges),
];

fn block_size(device: &mut Device) -> Verdict {
    needed!(
        offers(device, feature::BLK_SIZE)?,
        "BLK_SIZE is not offered"
    );
    let size = device.registers.read(field::BLK_SIZE);
    ensure!(size.is_power_of_two() && size >= 512, "blk_size is {size}");
    PASS
}

fn limit(device: &mut Device, bit: u64, at: usize) -> Verdict {
    needed!(offers(device, bit)?, "not offered");
    let limit = device.registers.read(at);
    ensure!(limit > 0, "it is 0");
    PASS
}

fn writeback(device: &mut Device) -> Verdict {
    needed!(
        offers(device, feature::CONFIG_WCE)?,
        "CONFIG_WCE is not offered"
    );
    for value in [0, 1, 0, 1] {
        device.registers.write_u8(field::WRITEBACK, value);
        let found = device.registers.read_u8(field::WRITEBACK);
        ensure!(found == value, "{found} after {value} was written");
    }
    PASS
}

fn write_through(device: &mut Device) -> Verdict {
    let wanted = feature::CONFIG_WCE | feature::FLUSH;
    needed!(
        device.live(wanted)? & feature::CONFIG_WCE != 0,
        "CONFIG_WCE is not offered"
    );
    for value in [0, 1] {
        device.registers.write_u8(field::WRITEBACK, value);
        written(device, 80, 4096)?;
    }
    PASS
}

fn topology(device: &mut Device) -> Verdict {
    needed!(
        offers(device, feature::TOPOLOGY)?,
        "TOPOLOGY is not offered"
    );
    let exponent = device.registers.read_u8(field::PHYSICAL_BLOCK_EXP);
    let aligned = device.registers.read_u8(field::PHYSICAL_BLOCK_EXP + 1);
    ensure!(exponent < 20, "physical_block_exp is {exponent}");
    ensure!(
        u32::from(aligned) < 1 << exponent,
        "alignment_offset is {aligned} of {exponent}"
    );
    PASS
}

/// `num_queues`, 1 without MQ.
fn queue_count(device: &mut Device) -> Result<u16, Failure> {
    Ok(match offers(device, feature::MQ)? {
        true => device.registers.read_u16(field::NUM_QUEUES),
        false => 1,
    })
}

fn queues(device: &mut Device) -> Verdict {
    needed!(offers(device, feature::MQ)?, "MQ is not offered");
    let count = queue_count(device)?;
    ensure!(count > 0, "num_queues is 0");
    let max = |index: u16| {
        device.registers.write(offset::QUEUE_SEL, index.into());
        device.registers.read(offset::QUEUE_SIZE_MAX)
    };
    for index in 0..count {
        ensure!(max(index) > 0, "no queue {index} of {count}");
    }
    ensure!(max(count) == 0, "a queue {count} as well");
    PASS
}

fn last_queue(device: &mut Device) -> Verdict {
    let count = queue_count(device)?;
    needed!(count > 1, "there is one queue");
    device.negotiate(feature::MQ)?;
    let [first, second] = &device.rings;
    first.clear();
    second.clear();
    first.attach(&device.registers, 0);
    second.attach(&device.registers, count - 1);
    device.transport.start();
    let (buffers, _) = device.buffers(9);
    link(second.descriptors(), 0, &buffers);
    second.offer(&[0]);
    device.kick(count - 1);
    let done = crate::device::until(5_000_000, || second.used() == 1);
    ensure!(done, "no answer from queue {}", count - 1);
    let (_, written) = second.element(0);
    device.check(9, written)?;
    PASS
}

const NO_SUCH: &str = "not offered";

fn offers_kind(device: &mut Device, kind: u32) -> Result<bool, Failure> {
    offers(
        device,
        match kind {
            DISCARD => feature::DISCARD,
            _ => feature::WRITE_ZEROES,
        },
    )
}

fn discard(device: &mut Device) -> Verdict {
    if !offers_kind(device, DISCARD)? {
        return Ok(guest::tap::Point::Skip(NO_SUCH));
    }
    let max = device.registers.read(field::MAX_DISCARD_SECTORS);
    ensure!(max > 0, "max_discard_sectors is 0");
    device.touch(128..192);
    expect(range(device, DISCARD, 128, max.min(64), 0)?.0, OK)?;
    PASS
}

fn zeroes(device: &mut Device, flags: u32) -> Verdict {
    if !offers_kind(device, WRITE_ZEROES)? {
        return Ok(guest::tap::Point::Skip(NO_SUCH));
    }
    let max = device.registers.read(field::MAX_WRITE_ZEROES_SECTORS);
    ensure!(max > 0, "max_write_zeroes_sectors is 0");
    let count = max.min(24);
    device.touch(131..131 + u64::from(count));
    expect(range(device, WRITE_ZEROES, 131, count, flags)?.0, OK)?;
    let bytes = usize::try_from(512 * count).unwrap_or(0);
    let data = Descriptor::writable(device.at(LONG), 512 * count);
    device.memory.slice(LONG..LONG + bytes).fill(BLANK);
    expect(device.request(Request::IN, 131, &[data])?.0, OK)?;
    let found = (LONG..LONG + bytes).find(|at| device.byte(*at) != 0);
    ensure!(
        found.is_none(),
        "byte {} is not 0",
        found.unwrap_or(0) - LONG
    );
    PASS
}

fn refused(device: &mut Device, kind: u32, flags: u32, wanted: u8) -> Verdict {
    if !offers_kind(device, kind)? {
        return Ok(guest::tap::Point::Skip(NO_SUCH));
    }
    expect(range(device, kind, 128, 8, flags)?.0, wanted)?;
    PASS
}

fn range_beyond(device: &mut Device, kind: u32) -> Verdict {
    if !offers_kind(device, kind)? {
        return Ok(guest::tap::Point::Skip(NO_SUCH));
    }
    let end = device.capacity();
    for (sector, count) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 7, 16)] {
        let (status, _) = range(device, kind, sector, count, 0)?;
        expect(status, IOERR).map_err(|failure| {
            Failure::new(format_args!("{count} sectors at {sector:#x}: {failure}"))
        })?;
    }
    PASS
}

fn read_only_write(device: &mut Device) -> Verdict {
    let data = Descriptor::readable(device.at(LONG), 512);
    device.memory.slice(LONG..LONG + 512).fill(0x5e);
    let (status, _) = device.request(Request::OUT, 2, &[data])?;
    expect(status, IOERR)?;
    PASS
}

fn read_only_kept(device: &mut Device) -> Verdict {
    read_only_write(device)?;
    let data = Descriptor::writable(device.at(LONG), 512);
    expect(device.request(Request::IN, 2, &[data])?.0, OK)?;
    let there = (LONG..LONG + 512).all(|at| device.byte(at) == 0x5e);
    ensure!(!there, "it is");
    PASS
}

fn read_only_ranges(device: &mut Device) -> Verdict {
    device.live(feature::DISCARD | feature::WRITE_ZEROES)?;
    let [before, after] = [LONG + 512, LONG + 1024];
    for at in [before, after] {
        let data = Descriptor::writable(device.at(at), 512);
        expect(device.request(Request::IN, 2, &[data])?.0, OK)?;
        for kind in [DISCARD, WRITE_ZEROES] {
            // They need not be refused.
            range(device, kind, 2, 1, 0)?;
        }
    }
    let same = (0..512).all(|at| device.byte(before + at) == device.byte(after + at));
    ensure!(same, "sector 2 changed");
    PASS
}
