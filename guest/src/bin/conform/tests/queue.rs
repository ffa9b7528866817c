//! The split virtqueue (§2.7): requirements on every device with valid rings.

use guest::bare::{Descriptor, INDIRECT, WRITE, describe, link};
use guest::block::Request;
use guest::tap::{Failure, Verdict};
use guest::virtio::feature::INDIRECT_DESC;
use guest::{Region, ensure};

use super::{ALL, DISK, PASS, Test, test};
use crate::device::{BLANK, DATA, Device, Kind, STATUS, UNIT, until};
use crate::disk::{OK, expect};
use crate::plain::{FRAME, readable};

/// Offset of indirect tables in the buffers.
const TABLE: usize = 0x2_0000;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("2.7.8", "a used element has the head's index and the bytes written", ALL, element),
    test("2.7.5", "descriptors may lie in any order", ALL, scattered),
    test("2.7.5", "`next` is ignored without NEXT", ALL, stray_next),
    test("2.7.5", "descriptors are read anew for each request", ALL, fresh_descriptors),
    test("2.7.5", "buffers may begin at odd addresses", ALL, odd_addresses),
    test("2.7.6", "many chains of one kick are all used", ALL, batch),
    test("2.7.6", "a full ring is served", ALL, full_ring),
    test("2.7.6", "the rings wrap at their size", ALL, laps),
    test("2.7.6", "the indices wrap at 65536", &[Kind::Entropy], index_wrap),
    test("2.7.5.1", "a readable buffer is not written", &[Kind::Disk, Kind::Console], readable_kept),
    test("2.7.8.2", "nothing is written beyond the writable buffers", &[Kind::Disk, Kind::Entropy], writable_bounds),
    test("2.7.5", "the device writes neither descriptors nor the available ring", ALL, driver_areas_kept),
    test("2.7.4.1", "a header in pieces of one byte", DISK, header_in_pieces),
    test("2.7.4.1", "header and data of a write in one buffer", DISK, header_with_data),
    test("2.7.4.1", "data and status of a read in one buffer", DISK, data_with_status),
    test("2.7.4.1", "data cut at odd places", DISK, odd_cuts),
    test("2.7.4.1", "a chain of as many descriptors as the ring", DISK, longest_chain),
    test("2.7.5.3", "INDIRECT_DESC: a request in a table", ALL, |device| indirect(device, 0)),
    test("2.7.5.3.2", "INDIRECT_DESC: WRITE is ignored on the descriptor of the table", ALL, |device| indirect(device, WRITE)),
    test("2.7.5.3.2", "INDIRECT_DESC: direct descriptors, then a table", DISK, direct_then_indirect),
    test("2.7.5.3", "INDIRECT_DESC: entries may lie in any order", DISK, scattered_table),
    test("2.7.5.3", "INDIRECT_DESC: a table may be longer than its chain", ALL, long_table),
    test("2.7.5.3", "INDIRECT_DESC: tables and direct chains side by side", ALL, mixed),
];

fn element(device: &mut Device) -> Verdict {
    device.chain(device.ring().descriptors(), 1, 1);
    device.offer(&[1]);
    let (head, written) = device.answer()?;
    ensure!(head == 1, "id {head}, not 1");
    device.check(1, written)?;
    PASS
}

/// Waits for the answer to the request of unit 1, and checks it.
fn answered(device: &mut Device) -> Verdict {
    let (_, written) = device.answer()?;
    device.check(1, written)?;
    PASS
}

fn scattered(device: &mut Device) -> Verdict {
    let (buffers, count) = device.buffers(1);
    let places = [3, 0, 2];
    let table = device.ring().descriptors();
    for ((buffer, place), next) in buffers.iter().zip(places).zip([0, 2, 0]).take(count) {
        let last = count == 1 || place == 2;
        describe(table, place, if last { *buffer } else { buffer.then(next) });
    }
    device.offer(&[3]);
    answered(device)
}

fn stray_next(device: &mut Device) -> Verdict {
    let (buffers, count) = device.buffers(1);
    let table = device.ring().descriptors();
    link(table, 0, buffers.get(..count).unwrap_or_default());
    if let (Some(last), Ok(at)) = (buffers.get(count - 1), u16::try_from(count - 1)) {
        let stray = Descriptor { next: 0xbeef, ..*last };
        describe(table, at, stray);
    }
    device.offer(&[0]);
    answered(device)
}

fn fresh_descriptors(device: &mut Device) -> Verdict {
    for unit in [2, 9, 5] {
        device.chain(device.ring().descriptors(), 0, unit);
        device.offer(&[0]);
        let (_, written) = device.answer()?;
        device.check(unit, written)?;
    }
    PASS
}

fn odd_addresses(device: &mut Device) -> Verdict {
    let table = device.ring().descriptors();
    match device.kind {
        Kind::Disk | Kind::ReadOnly => {
            device.header_at(7, Request::IN, 3);
            let (data, status) = (UNIT + 1, 41);
            let request = [
                Descriptor::readable(device.at(7), 16),
                Descriptor::writable(device.at(data), 512),
                Descriptor::writable(device.at(status), 1),
            ];
            link(table, 0, &request);
            device.offer(&[0]);
            device.answer()?;
            expect(device.byte(status), OK)?;
            crate::disk::verify(&device.memory.slice(data..data + 512), 3)?;
        }
        Kind::Entropy => {
            link(table, 0, &[Descriptor::writable(device.at(3), 5)]);
            device.offer(&[0]);
            let (_, written) = device.answer()?;
            ensure!((1..=5).contains(&written), "len {written} for 5 bytes");
        }
        _ => {
            let mut bytes = [0; FRAME];
            let len = device.output(&mut bytes);
            device.memory.write(3, bytes.get(..len).unwrap_or_default());
            link(table, 0, &[readable(&device.memory.slice(3..3 + len))]);
            device.offer(&[0]);
            device.answer()?;
        }
    }
    PASS
}

/// Offers `count` plain requests by one kick, and checks that each is answered once.
fn serve(device: &mut Device, count: u16) -> Result<(), Failure> {
    let len = device.chain_len();
    let ring = device.ring();
    for unit in 0..count {
        device.chain(ring.descriptors(), unit * len, unit);
        ring.place(ring.available().wrapping_add(unit), unit * len);
    }
    ring.set_available(ring.available().wrapping_add(count));
    device.kick(device.queue());
    let mut answered = 0_u64;
    for _ in 0..count {
        let (head, written) = device.answer()?;
        let unit = u16::try_from(head).unwrap_or(u16::MAX) / len;
        let fresh = unit < count && answered & 1 << unit == 0;
        ensure!(fresh, "an answer to {head}, which is not in flight");
        answered |= 1 << unit;
        device.check(unit, written)?;
    }
    Ok(())
}

fn batch(device: &mut Device) -> Verdict {
    let room = device.ring().size() / device.chain_len();
    serve(device, room.min(16))?;
    PASS
}

fn full_ring(device: &mut Device) -> Verdict {
    for _ in 0..3 {
        let room = device.ring().size() / device.chain_len();
        serve(device, room)?;
    }
    PASS
}

fn laps(device: &mut Device) -> Verdict {
    for _ in 0..3 * device.ring().size() {
        device.plain()?;
    }
    PASS
}

fn index_wrap(device: &mut Device) -> Verdict {
    device.live(0)?;
    let ring = device.ring();
    let size = ring.size();
    for index in 0..size {
        let byte = Descriptor::writable(device.at(index.into()), 1);
        describe(ring.descriptors(), index, byte);
        ring.place(index, index);
    }
    for _ in 0..=65536 / u32::from(size) {
        ring.set_available(ring.available().wrapping_add(size));
        device.kick(0);
        let done = until(5_000_000, || ring.used() == ring.available());
        ensure!(
            done,
            "used.idx {} for avail.idx {}",
            ring.used(),
            ring.available()
        );
    }
    PASS
}

fn readable_kept(device: &mut Device) -> Verdict {
    let range = match device.kind {
        Kind::Disk => {
            device.touch(4..5);
            let data = Descriptor::readable(device.at(DATA), 512);
            device.memory.slice(DATA..DATA + 512).fill(0x3c);
            let (status, _) = device.request(Request::OUT, 4, &[data])?;
            expect(status, OK)?;
            DATA..DATA + 512
        }
        _ => {
            device.memory.slice(DATA..DATA + 512).fill(b' ');
            device.memory.write(DATA + 511, b"\n");
            let table = device.ring().descriptors();
            link(table, 0, &[Descriptor::readable(device.at(DATA), 512)]);
            device.offer(&[0]);
            device.answer()?;
            ensure!(device.byte(DATA + 511) == b'\n', "the last byte changed");
            DATA..DATA + 511
        }
    };
    let first = device.byte(range.start);
    let changed = range.clone().find(|at| device.byte(*at) != first);
    ensure!(
        changed.is_none(),
        "byte {} changed",
        changed.unwrap_or(0) - range.start
    );
    PASS
}

fn writable_bounds(device: &mut Device) -> Verdict {
    device.live(0)?;
    device.plain()?;
    let start = UNIT;
    let len = match device.kind {
        Kind::Disk => 512,
        _ => 64,
    };
    let end = start + DATA + len;
    let intact = device.is_blank(0..start)
        && device.is_blank(start + STATUS + 1..start + DATA)
        && device.is_blank(end..end + 4 * UNIT);
    ensure!(intact, "bytes around the buffers changed");
    PASS
}

fn driver_areas_kept(device: &mut Device) -> Verdict {
    device.live(0)?;
    device.plain()?;
    let sum = |region: &Region| {
        let words = 0..region.len() / 2;
        let order = core::sync::atomic::Ordering::Relaxed;
        words.fold(0_u64, |sum, word| {
            sum.wrapping_mul(31) + u64::from(region.load_u16(2 * word, order))
        })
    };
    device.chain(device.ring().descriptors(), 0, 1);
    let descriptors = sum(device.ring().descriptors());
    device.offer(&[0]);
    let available = sum(device.ring().driver());
    device.answer()?;
    ensure!(
        descriptors == sum(device.ring().descriptors()),
        "descriptors changed"
    );
    ensure!(
        available == sum(device.ring().driver()),
        "the available ring changed"
    );
    PASS
}

/// Offers a request of these buffers to a disk. Its status byte is that of unit 1.
fn framed(device: &mut Device, buffers: &[Descriptor]) -> Result<(u8, u32), Failure> {
    link(device.ring().descriptors(), 0, buffers);
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    Ok((device.status_of(1), written))
}

fn header_in_pieces(device: &mut Device) -> Verdict {
    let [_, data, status] = device.read_request(1, 512);
    let mut buffers = [Descriptor::default(); 18];
    for (offset, buffer) in buffers.iter_mut().enumerate() {
        *buffer = match offset {
            16 => data,
            17 => status,
            _ => Descriptor::readable(device.at(UNIT + offset), 1),
        };
    }
    let (status, written) = framed(device, &buffers)?;
    expect(status, OK)?;
    device.check(1, written)?;
    PASS
}

fn header_with_data(device: &mut Device) -> Verdict {
    device.touch(6..7);
    let start = 0x4000;
    device.header_at(start, Request::OUT, 6);
    device.memory.slice(start + 16..start + 528).fill(0x77);
    let status = Descriptor::writable(device.at(UNIT + STATUS), 1);
    device.memory.write(UNIT + STATUS, &[BLANK]);
    let request = [Descriptor::readable(device.at(start), 528), status];
    let (status, _) = framed(device, &request)?;
    expect(status, OK)?;
    let read = Descriptor::writable(device.at(DATA), 512);
    expect(device.request(Request::IN, 6, &[read])?.0, OK)?;
    let wrong = (DATA..DATA + 512).find(|at| device.byte(*at) != 0x77);
    ensure!(
        wrong.is_none(),
        "byte {} was not written",
        wrong.unwrap_or(0) - DATA
    );
    PASS
}

fn data_with_status(device: &mut Device) -> Verdict {
    device.header(0, Request::IN, 8);
    let start = 0x4000;
    let request = [
        Descriptor::readable(device.at(0), 16),
        Descriptor::writable(device.at(start), 513),
    ];
    device.memory.write(start + 512, &[BLANK]);
    link(device.ring().descriptors(), 0, &request);
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    expect(device.byte(start + 512), OK)?;
    ensure!(written == 513, "len {written}, not 513");
    crate::disk::verify(&device.memory.slice(start..start + 512), 8)?;
    PASS
}

fn odd_cuts(device: &mut Device) -> Verdict {
    let [header, data, status] = device.read_request(1, 512);
    let cut = |from: u64, len| Descriptor::writable(data.address + from, len);
    let cuts = [cut(0, 1), cut(1, 7), cut(8, 500), cut(508, 3), cut(511, 1)];
    let [a, b, c, d, e] = cuts;
    let (found, written) = framed(device, &[header, a, b, c, d, e, status])?;
    expect(found, OK)?;
    device.check(1, written)?;
    PASS
}

fn longest_chain(device: &mut Device) -> Verdict {
    device.live_with(16)?;
    let start = 0x4000;
    device.header(1, Request::IN, 0);
    let mut buffers = [Descriptor::default(); 16];
    for (sector, buffer) in buffers.iter_mut().skip(1).enumerate() {
        *buffer = Descriptor::writable(device.at(start + 512 * sector), 512);
    }
    let [first, .., last] = &mut buffers;
    *first = Descriptor::readable(device.at(UNIT), 16);
    *last = Descriptor::writable(device.at(UNIT + STATUS), 1);
    let (status, _) = framed(device, &buffers)?;
    expect(status, OK)?;
    for (place, sector) in (0..14).enumerate() {
        let at = start + 512 * place;
        crate::disk::verify(&device.memory.slice(at..at + 512), sector)?;
    }
    PASS
}

/// The table among the buffers, and the descriptor that refers to `entries` of it.
fn table(device: &Device, entries: u16) -> (Region, Descriptor) {
    let table = device.memory.slice(TABLE..TABLE + 16 * 64);
    let whole = Descriptor::readable(table.bus(), 16 * u32::from(entries));
    (table, whole.with(INDIRECT))
}

const NO_INDIRECT: &str = "INDIRECT_DESC is not offered";

macro_rules! with_indirect {
    ($device:expr) => {
        if $device.live(INDIRECT_DESC)? & INDIRECT_DESC == 0 {
            return Ok(guest::tap::Point::Skip(NO_INDIRECT));
        }
    };
}

fn indirect(device: &mut Device, flags: u16) -> Verdict {
    with_indirect!(device);
    let (table, whole) = table(device, device.chain_len());
    device.chain(&table, 0, 1);
    describe(device.ring().descriptors(), 2, whole.with(flags));
    device.offer(&[2]);
    answered(device)
}

fn direct_then_indirect(device: &mut Device) -> Verdict {
    with_indirect!(device);
    let (table, whole) = table(device, 2);
    let [header, data, status] = device.read_request(1, 512);
    link(&table, 0, &[data, status]);
    describe(device.ring().descriptors(), 0, header.then(3));
    describe(device.ring().descriptors(), 3, whole);
    device.offer(&[0]);
    answered(device)
}

fn scattered_table(device: &mut Device) -> Verdict {
    with_indirect!(device);
    let (table, whole) = table(device, 9);
    let [header, data, status] = device.read_request(1, 512);
    describe(&table, 0, header.then(8));
    describe(&table, 8, data.then(4));
    describe(&table, 4, status);
    describe(device.ring().descriptors(), 0, whole);
    device.offer(&[0]);
    answered(device)
}

fn long_table(device: &mut Device) -> Verdict {
    with_indirect!(device);
    let (table, whole) = table(device, 48);
    device.chain(&table, 0, 1);
    describe(device.ring().descriptors(), 0, whole);
    device.offer(&[0]);
    answered(device)
}

fn mixed(device: &mut Device) -> Verdict {
    with_indirect!(device);
    for unit in 1..9 {
        if unit % 2 == 0 {
            device.chain(device.ring().descriptors(), 0, unit);
        } else {
            let (table, whole) = table(device, device.chain_len());
            device.chain(&table, 0, unit);
            describe(device.ring().descriptors(), 0, whole);
        }
        device.offer(&[0]);
        let (_, written) = device.answer()?;
        device.check(unit, written)?;
    }
    PASS
}
