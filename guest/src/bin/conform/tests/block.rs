//! The block device (§5.2).

use guest::bare::{Descriptor, link};
use guest::block::Request;
use guest::mmio::offset;
use guest::tap::{Failure, Verdict};
use guest::virtio::feature::INDIRECT_DESC;
use guest::{Registers, ensure};

use super::{DISK, PASS, Test, needed, test};
use crate::device::{BLANK, DATA, Device, STATUS, UNIT};
use crate::disk::{IOERR, OK, UNSUPP, expect, verify};

/// Feature bits (§5.2.3).
pub(super) mod feature {
    pub(in crate::tests) const SIZE_MAX: u64 = 1 << 1;
    pub(in crate::tests) const SEG_MAX: u64 = 1 << 2;
    pub(in crate::tests) const BLK_SIZE: u64 = 1 << 6;
    pub(in crate::tests) const FLUSH: u64 = 1 << 9;
    pub(in crate::tests) const TOPOLOGY: u64 = 1 << 10;
    pub(in crate::tests) const CONFIG_WCE: u64 = 1 << 11;
    pub(in crate::tests) const MQ: u64 = 1 << 12;
    pub(in crate::tests) const DISCARD: u64 = 1 << 13;
    pub(in crate::tests) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types that [`Request`] lacks (§5.2.6).
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;
#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.2.4", "the capacity is not 0, and reads the same by bytes and by words", DISK, capacity),
    test("5.2.6", "a sector that was written reads as written", DISK, |device| written(device, 17, 512)),
    test("5.2.6", "4 KiB read as written", DISK, |device| written(device, 24, 4096)),
    test("5.2.6", "64 KiB read as written", DISK, |device| written(device, 32, 0x1_0000)),
    test("5.2.6", "eight writes in flight each reach their sectors", DISK, writes_in_flight),
    test("5.2.6", "the last sector can be written and read", DISK, last_sector),
    test("5.2.6", "the used length of a write is 1", DISK, length_of_write),
    test("5.2.6", "the reserved field of the header is ignored", DISK, reserved_field),
    test("5.2.6", "a request without data is valid", DISK, no_data),
    test("5.2.6.1", "a read beyond the capacity is IOERR", DISK, |device| beyond(device, Request::IN, 0, 1)),
    test("5.2.6.1", "a read across the end is IOERR", DISK, |device| beyond(device, Request::IN, -1, 2)),
    test("5.2.6.1", "a write beyond the capacity is IOERR", DISK, |device| beyond(device, Request::OUT, 0, 1)),
    test("5.2.6.1", "a write across the end is IOERR and writes nothing", DISK, |device| beyond(device, Request::OUT, -1, 2)),
    test("5.2.6.1", "a read that is not a multiple of a sector is IOERR", DISK, |device| fraction(device, Request::IN)),
    test("5.2.6.1", "a write that is not a multiple of a sector is IOERR", DISK, |device| fraction(device, Request::OUT)),
    test("5.2.6", "the status of a request that failed is its last writable byte", DISK, status_is_last),
    test("5.2.3", "FLUSH is offered", DISK, flush_offered),
    test("5.2.6", "FLUSH: succeeds, with a used length of 1", DISK, flush),
    test("5.2.6.2", "a driver that declined FLUSH can write", DISK, |device| { device.live(0)?; written(device, 40, 4096) }),
    test("5.2.6", "GET_ID gives the serial number, 20 bytes", DISK, serial),
    test("5.2.6", "an unknown request is UNSUPP", DISK, |device| unknown(device, &[6, 7, 9, 99, 0x8000_0000, u32::MAX])),
    test("5.2.6", "the legacy SCSI requests are UNSUPP", DISK, |device| unknown(device, &[2, 3])),
    test("5.2.6", "requests of features that were declined are UNSUPP or do no harm", DISK, declined),
    test("5.2.6", "a request of 4 KiB in a table of eight buffers", DISK, table_of_eight),
];

/// Offset of long data in the buffers.
pub(super) const LONG: usize = 0x1_0000;

fn capacity(device: &mut Device) -> Verdict {
    let words = device.capacity();
    let mut bytes = [0; 8];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = device.registers.read_u8(offset::CONFIG + at);
    }
    let bytes = u64::from_le_bytes(bytes);
    ensure!(words != 0, "the capacity is 0");
    ensure!(words == bytes, "{words:#x} by words, {bytes:#x} by bytes");
    PASS
}

/// Whether the device offers a feature. If so, it is live with it.
pub(super) fn offers(device: &mut Device, bit: u64) -> Result<bool, Failure> {
    Ok(device.live(bit)? & bit != 0)
}

fn fill(device: &Device, at: usize, len: usize, seed: u8) {
    for offset in 0..len {
        let [low, high, ..] = offset.to_le_bytes();
        device
            .memory
            .write(at + offset, &[low ^ high.wrapping_mul(5) ^ seed]);
    }
}

/// The pattern that [`fill`] writes, at any offset.
fn is_filled(device: &Device, at: usize, len: usize, seed: u8) -> Result<(), Failure> {
    for offset in 0..len {
        let [low, high, ..] = offset.to_le_bytes();
        let (found, wanted) = (device.byte(at + offset), low ^ high.wrapping_mul(5) ^ seed);
        ensure!(
            found == wanted,
            "byte {offset} reads {found:#04x}, not {wanted:#04x}"
        );
    }
    Ok(())
}

/// Writes this many bytes from a sector on, and reads them back.
pub(super) fn written(device: &mut Device, sector: u64, len: u32) -> Verdict {
    let bytes = usize::try_from(len).unwrap_or(0);
    device.touch(sector..sector + u64::from(len / 512));
    fill(device, LONG, bytes, 0x42);
    let data = Descriptor::readable(device.at(LONG), len);
    expect(device.request(Request::OUT, sector, &[data])?.0, OK)?;
    device.memory.slice(LONG..LONG + bytes).fill(BLANK);
    let data = Descriptor::writable(device.at(LONG), len);
    let (status, written) = device.request(Request::IN, sector, &[data])?;
    expect(status, OK)?;
    ensure!(
        written == len + 1,
        "len {written} for a read of {len} bytes"
    );
    is_filled(device, LONG, bytes, 0x42)?;
    PASS
}

fn writes_in_flight(device: &mut Device) -> Verdict {
    device.touch(64..72);
    let ring = device.ring();
    for unit in 0..8_u8 {
        let start = UNIT * usize::from(unit);
        device.header(unit.into(), Request::OUT, 64 + u64::from(unit));
        fill(device, start + DATA, 512, 7 * unit);
        device.memory.write(start + STATUS, &[BLANK]);
        let request = [
            Descriptor::readable(device.at(start), 16),
            Descriptor::readable(device.at(start + DATA), 512),
            Descriptor::writable(device.at(start + STATUS), 1),
        ];
        link(ring.descriptors(), 3 * u16::from(unit), &request);
    }
    device.offer(&[0, 3, 6, 9, 12, 15, 18, 21]);
    for _ in 0..8 {
        device.answer()?;
    }
    for unit in 0..8_u8 {
        expect(device.status_of(unit.into()), OK)?;
    }
    for unit in 0..8_u8 {
        let data = Descriptor::writable(device.at(LONG), 512);
        expect(
            device
                .request(Request::IN, 64 + u64::from(unit), &[data])?
                .0,
            OK,
        )?;
        is_filled(device, LONG, 512, 7 * unit)?;
    }
    PASS
}

fn last_sector(device: &mut Device) -> Verdict {
    written(device, device.capacity() - 1, 512)
}

fn length_of_write(device: &mut Device) -> Verdict {
    device.touch(16..17);
    let data = Descriptor::readable(device.at(LONG), 512);
    let (status, written) = device.request(Request::OUT, 16, &[data])?;
    expect(status, OK)?;
    ensure!(written == 1, "len {written}");
    PASS
}

fn reserved_field(device: &mut Device) -> Verdict {
    let request = device.read_request(1, 512);
    device.memory.write(UNIT + 4, &[0xff; 4]);
    link(device.ring().descriptors(), 0, &request);
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    device.check(1, written)?;
    PASS
}

fn no_data(device: &mut Device) -> Verdict {
    // It may fail, but it must be answered.
    for kind in [Request::IN, Request::OUT] {
        let (status, written) = device.request(kind, 3, &[])?;
        ensure!(
            status <= UNSUPP && written == 1,
            "type {kind}: status {status:#x}, len {written}"
        );
    }
    PASS
}

/// A request of `sectors` sectors, from this many beyond the end on.
fn beyond(device: &mut Device, kind: u32, from: i64, sectors: u32) -> Verdict {
    let sector = device.capacity().wrapping_add_signed(from);
    let data = Descriptor::readable(device.at(LONG), 512 * sectors);
    device.memory.slice(LONG..LONG + 1024).fill(0x99);
    let data = if kind == Request::IN {
        data.with(guest::bare::WRITE)
    } else {
        data
    };
    let (status, _) = device.request(kind, sector, &[data])?;
    expect(status, IOERR)?;
    PASS
}

fn fraction(device: &mut Device, kind: u32) -> Verdict {
    for len in [1, 511, 513, 1000] {
        let data = Descriptor::readable(device.at(LONG), len);
        let data = if kind == Request::IN {
            data.with(guest::bare::WRITE)
        } else {
            data
        };
        let (status, _) = device.request(kind, 5, &[data])?;
        expect(status, IOERR)
            .map_err(|failure| Failure::new(format_args!("{len} bytes: {failure}")))?;
    }
    PASS
}

fn status_is_last(device: &mut Device) -> Verdict {
    let start = 0x4000;
    device.header(0, Request::IN, device.capacity() + 7);
    let request = [
        Descriptor::readable(device.at(0), 16),
        Descriptor::writable(device.at(start), 513),
    ];
    device.memory.slice(start..start + 600).fill(BLANK);
    link(device.ring().descriptors(), 0, &request);
    device.offer(&[0]);
    device.answer()?;
    expect(device.byte(start + 512), IOERR)?;
    ensure!(
        device.byte(start + 513) == BLANK,
        "the byte after it changed"
    );
    PASS
}

fn flush_offered(device: &mut Device) -> Verdict {
    ensure!(offers(device, feature::FLUSH)?, "it is not");
    PASS
}

fn flush(device: &mut Device) -> Verdict {
    needed!(offers(device, feature::FLUSH)?, "FLUSH is not offered");
    let (status, written) = device.request(Request::FLUSH, 0, &[])?;
    expect(status, OK)?;
    ensure!(written == 1, "len {written}");
    PASS
}

fn serial(device: &mut Device) -> Verdict {
    let data = Descriptor::writable(device.at(LONG), 20);
    device.memory.slice(LONG..LONG + 32).fill(BLANK);
    let (status, written) = device.request(Request::GET_ID, 0, &[data])?;
    expect(status, OK)?;
    ensure!(written == 21, "len {written}, not 21");
    let mut id = [0; 21];
    device.memory.read(LONG, &mut id);
    let [text @ .., behind] = id;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(20);
    let rest = text.get(end..).unwrap_or_default();
    ensure!(rest.iter().all(|byte| *byte == 0), "not padded by zeroes");
    ensure!(behind == BLANK, "a 21st byte was written");
    PASS
}

fn unknown(device: &mut Device, kinds: &[u32]) -> Verdict {
    for kind in kinds.iter().copied() {
        let data = Descriptor::writable(device.at(LONG), 512);
        let (status, _) = device.request(kind, 0, &[data])?;
        expect(status, UNSUPP)
            .map_err(|failure| Failure::new(format_args!("type {kind:#x}: {failure}")))?;
    }
    PASS
}

fn declined(device: &mut Device) -> Verdict {
    device.live(0)?;
    device.touch(8..16);
    for kind in [DISCARD, WRITE_ZEROES, 14] {
        let (status, _) = range(device, kind, 8, 8, 0)?;
        ensure!(status <= UNSUPP, "type {kind}: status {status:#x}");
    }
    PASS
}

fn table_of_eight(device: &mut Device) -> Verdict {
    let indirect = device.live(INDIRECT_DESC)? & INDIRECT_DESC != 0;
    needed!(indirect, "INDIRECT_DESC is not offered");
    let table = device.memory.slice(0x2_0000..0x2_1000);
    device.header(1, Request::IN, 8);
    let mut buffers = [Descriptor::default(); 10];
    for (place, buffer) in buffers.iter_mut().skip(1).enumerate() {
        *buffer = Descriptor::writable(device.at(LONG + 512 * place), 512);
    }
    let [first, .., last] = &mut buffers;
    *first = Descriptor::readable(device.at(UNIT), 16);
    *last = Descriptor::writable(device.at(UNIT + STATUS), 1);
    link(&table, 0, &buffers);
    let whole = Descriptor::readable(table.bus(), 160).with(guest::bare::INDIRECT);
    link(device.ring().descriptors(), 0, &[whole]);
    device.offer(&[0]);
    device.answer()?;
    expect(device.status_of(1), OK)?;
    for (place, sector) in (8..16).enumerate() {
        let at = LONG + 512 * place;
        verify(&device.memory.slice(at..at + 512), sector)?;
    }
    PASS
}

/// DISCARD or WRITE_ZEROES of one range.
pub(super) fn range(
    device: &mut Device,
    kind: u32,
    sector: u64,
    sectors: u32,
    flags: u32,
) -> Result<(u8, u32), Failure> {
    device.memory.write(LONG, &sector.to_le_bytes());
    device.memory.write(LONG + 8, &sectors.to_le_bytes());
    device.memory.write(LONG + 12, &flags.to_le_bytes());
    let data = Descriptor::readable(device.at(LONG), 16);
    device.request(kind, 0, &[data])
}
