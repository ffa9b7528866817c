//! Valid rings with invalid requests.

use guest::bare::{Descriptor, WRITE, link};
use guest::block::Request;
use guest::ensure;
use guest::tap::{Failure, Verdict};

use super::survived;
use crate::device::{BLANK, Device, Kind, Met, STATUS, UNIT};
use crate::disk::{IOERR, OK, expect, name};
use crate::tests::{DISK, PASS, Test, test};

/// Offset of data in the buffers.
const DATA: usize = 0x1_0000;
const CONSOLE: &[Kind] = &[Kind::Console];
const ENTROPY: &[Kind] = &[Kind::Entropy];

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("5.2.6", "a request without a status byte", DISK, |device| raw(device, &[header(device)])),
    test("5.2.6", "header and status in one readable buffer", DISK, |device| raw(device, &[Descriptor::readable(device.at(UNIT), 17)])),
    test("5.2.6", "header and status in one writable buffer", DISK, |device| raw(device, &[Descriptor::writable(device.at(UNIT), 17)])),
    test("5.2.6", "only a status byte", DISK, |device| raw(device, &[status(device)])),
    test("5.2.6", "a header of 15 bytes", DISK, |device| raw(device, &[Descriptor::readable(device.at(UNIT), 15), status(device)])),
    test("5.2.6", "a header of 1 byte", DISK, |device| raw(device, &[Descriptor::readable(device.at(UNIT), 1), status(device)])),
    test("5.2.6", "a header of 0 bytes", DISK, |device| raw(device, &[Descriptor::readable(device.at(UNIT), 0), status(device)])),
    test("5.2.6", "a status buffer of 0 bytes", DISK, |device| raw(device, &[header(device), Descriptor::writable(device.at(UNIT + STATUS), 0)])),
    test("5.2.6", "a read into a readable buffer", DISK, |device| raw(device, &[header(device), Descriptor::readable(device.at(DATA), 512), status(device)])),
    test("5.2.6", "a write from a writable buffer", DISK, write_from_writable),
    test("5.2.6.1", "a sector whose offset in bytes wraps to 0", DISK, |device| sector(device, 1 << 55)),
    test("5.2.6.1", "a sector whose offset in bytes wraps into the disk", DISK, |device| sector(device, (1 << 55) + 5)),
    test("5.2.6.1", "the last sector there could be", DISK, |device| sector(device, u64::MAX)),
    test("5.2.6.1", "a sector whose offset is negative", DISK, |device| sector(device, 1 << 63)),
    test("5.2.6.1", "a range whose end wraps", DISK, |device| sector(device, u64::MAX - 1)),
    test("5.2.6", "GET_ID with a buffer of 4 bytes", DISK, |device| short_id(device, 4)),
    test("5.2.6", "GET_ID without a buffer", DISK, |device| short_id(device, 0)),
    test("5.2.6", "GET_ID with a buffer of 64 KiB", DISK, |device| short_id(device, 0x1_0000)),
    test("5.2.6", "FLUSH with data and a sector", DISK, flush_with_data),
    test("5.2.6", "a write from beyond the memory", DISK, |device| data_outside(device, Request::OUT, device.ram.0 + device.ram.1)),
    test("5.2.6", "a write from across the end of the memory writes nothing", DISK, |device| data_outside(device, Request::OUT, device.ram.0 + device.ram.1 - 512)),
    test("5.2.6", "a write from the device's own registers", DISK, |device| data_outside(device, Request::OUT, device.slot.base)),
    test("5.2.6", "a read to below the memory", DISK, |device| data_outside(device, Request::IN, device.ram.0 - 4096)),
    test("5.2.6", "a status byte beyond the memory", DISK, |device| raw(device, &[header(device), Descriptor::writable(device.ram.0 + device.ram.1, 1)])),
    test("5.2.6", "a header beyond the memory", DISK, |device| raw(device, &[Descriptor::readable(device.ram.0 + device.ram.1, 16), status(device)])),
    test("5.2.6", "the status byte inside the data", DISK, status_in_data),
    test("5.2.6", "the same memory for the data of 16 requests in flight", DISK, shared_data),
    test("5.2.6.1", "ranges of DISCARD and WRITE_ZEROES of odd lengths", DISK, odd_ranges),
    test("5.2.6", "after all that, every sector of the disk is as it was", DISK, |device| { device.live(0)?; device.check_field()?; PASS }),
    test("5.3.6", "output from a writable buffer", CONSOLE, |device| raw(device, &[Descriptor::writable(device.at(DATA), 64)])),
    test("5.3.6", "output of 0 bytes", CONSOLE, |device| raw(device, &[Descriptor::readable(device.at(DATA), 0)])),
    test("5.3.6", "input into a readable buffer", CONSOLE, |device| input(device, Descriptor::readable(device.at(DATA), 64))),
    test("5.3.6", "input into a buffer of 0 bytes", CONSOLE, |device| input(device, Descriptor::writable(device.at(DATA), 0))),
    test("5.3.6", "input into a buffer beyond the memory", CONSOLE, |device| input(device, Descriptor::writable(device.ram.0 + device.ram.1, 64))),
    test("5.3.6", "a full queue of receive buffers, and a reset", CONSOLE, full_receive),
    test("5.4.6.1", "random bytes into a readable buffer", ENTROPY, |device| raw(device, &[Descriptor::readable(device.at(DATA), 64)])),
    test("5.4.6", "random bytes into 0 bytes", ENTROPY, |device| raw(device, &[Descriptor::writable(device.at(DATA), 0)])),
    test("5.4.6", "64 requests of 64 KiB at once", ENTROPY, much),
];

/// The header of unit 1: a read of sector 1.
fn header(device: &Device) -> Descriptor {
    device.header(1, Request::IN, 1);
    Descriptor::readable(device.at(UNIT), 16)
}

/// The status byte of unit 1.
fn status(device: &Device) -> Descriptor {
    device.memory.write(UNIT + STATUS, &[BLANK]);
    Descriptor::writable(device.at(UNIT + STATUS), 1)
}

/// A chain of these buffers. Buffers that the device may not write must stay unchanged.
fn raw(device: &mut Device, buffers: &[Descriptor]) -> Verdict {
    device.memory.slice(DATA..DATA + 512).fill(BLANK);
    link(device.ring().descriptors(), 0, buffers);
    device.offer(&[0]);
    device.settle();
    let writable = buffers
        .iter()
        .any(|it| it.flags & WRITE != 0 && it.address == device.at(DATA));
    let intact = writable || device.is_blank(DATA..DATA + 512);
    ensure!(intact, "a readable buffer was written");
    PASS
}

fn write_from_writable(device: &mut Device) -> Verdict {
    device.memory.slice(DATA..DATA + 512).fill(0x66);
    device.header(1, Request::OUT, 20);
    let data = Descriptor::writable(device.at(DATA), 512);
    let (first, last) = (Descriptor::readable(device.at(UNIT), 16), status(device));
    link(device.ring().descriptors(), 0, &[first, data, last]);
    device.offer(&[0]);
    survived(device)
}

/// Reads and writes two sectors from there on: neither may succeed.
fn sector(device: &mut Device, sector: u64) -> Verdict {
    for kind in [Request::OUT, Request::IN] {
        let data = Descriptor::readable(device.at(DATA), 1024);
        let data = if kind == Request::IN {
            data.with(WRITE)
        } else {
            data
        };
        let (status, _) = device.request(kind, sector, &[data])?;
        expect(status, IOERR)
            .map_err(|failure| Failure::new(format_args!("type {kind}: {failure}")))?;
    }
    device.met = Met::Answered(2);
    PASS
}

fn short_id(device: &mut Device, len: u32) -> Verdict {
    let bytes = usize::try_from(len).unwrap_or(0);
    device.memory.slice(DATA..DATA + bytes + 64).fill(BLANK);
    let data = [Descriptor::writable(device.at(DATA), len)];
    let data = if len == 0 { &[] } else { data.as_slice() };
    let (_, written) = device.request(Request::GET_ID, 0, data)?;
    device.met = Met::Answered(1);
    ensure!(written <= len + 1, "len {written} for {len} bytes");
    let end = DATA + bytes.min(20);
    ensure!(
        device.is_blank(end..DATA + bytes + 64),
        "more than 20 bytes, or than the buffer's"
    );
    PASS
}

fn flush_with_data(device: &mut Device) -> Verdict {
    let data = Descriptor::readable(device.at(DATA), 512);
    device.submit(Request::FLUSH, 7, &[data]);
    survived(device)
}

/// A request whose data are at least partly outside memory.
fn data_outside(device: &mut Device, kind: u32, address: u64) -> Verdict {
    let data = Descriptor::readable(address, 1024);
    let data = if kind == Request::IN {
        data.with(WRITE)
    } else {
        data
    };
    device.submit(kind, 10, &[data]);
    if let Met::Answered(_) = device.settle() {
        let status = device.status_of(0);
        ensure!(status != OK, "reported as done: status {}", name(status));
    }
    PASS
}

fn status_in_data(device: &mut Device) -> Verdict {
    device.header(0, Request::IN, 12);
    let request = [
        Descriptor::readable(device.at(0), 16),
        Descriptor::writable(device.at(DATA), 512),
        Descriptor::writable(device.at(DATA + 100), 1),
    ];
    link(device.ring().descriptors(), 0, &request);
    device.offer(&[0]);
    survived(device)
}

fn shared_data(device: &mut Device) -> Verdict {
    for unit in 0..16 {
        let [head, data, status] = device.read_request(unit, 512);
        let address = device.at(DATA);
        let shared = Descriptor { address, ..data };
        link(
            device.ring().descriptors(),
            3 * unit,
            &[head, shared, status],
        );
        device.ring().offer(&[3 * unit]);
    }
    device.kick(device.queue());
    for _ in 0..16 {
        device.answer()?;
    }
    device.met = Met::Answered(16);
    PASS
}

fn odd_ranges(device: &mut Device) -> Verdict {
    const BOTH: u64 = 1 << 13 | 1 << 14;
    device.live(BOTH)?;
    device.memory.slice(DATA..DATA + 0x1_0000).fill(0xff);
    for kind in [11, 13] {
        for len in [0, 1, 15, 17, 24, 0x1_0000] {
            let data = [Descriptor::readable(device.at(DATA), len)];
            device.submit(kind, 0, &data);
            if let Met::Answered(_) = device.settle() {
                device.answer()?;
                let status = device.status_of(0);
                ensure!(
                    status != OK || len == 0,
                    "type {kind}, {len} bytes of nonsense: OK"
                );
            } else {
                device.live(BOTH)?;
                device.memory.slice(DATA..DATA + 0x1_0000).fill(0xff);
            }
        }
    }
    PASS
}

/// Gives the console this receive buffer, and kicks.
fn input(device: &mut Device, buffer: Descriptor) -> Verdict {
    let [ring, _] = &device.rings;
    link(ring.descriptors(), 0, &[buffer]);
    ring.offer(&[0]);
    device.kick(0);
    crate::device::until(5_000, || ring.used() != 0);
    let used = ring.used();
    device.met = match (device.is_broken(), used) {
        (true, _) => Met::NeedsReset,
        (false, 0) => Met::Silence,
        (false, count) => Met::Answered(count),
    };
    PASS
}

fn full_receive(device: &mut Device) -> Verdict {
    let [ring, _] = &device.rings;
    for index in 0..ring.size() {
        let at = DATA + 64 * usize::from(index);
        link(
            ring.descriptors(),
            index,
            &[Descriptor::writable(device.at(at), 64)],
        );
        ring.offer(&[index]);
    }
    device.kick(0);
    device.reset()?;
    PASS
}

fn much(device: &mut Device) -> Verdict {
    let ring = device.ring();
    for index in 0..ring.size() {
        let all = Descriptor::writable(device.at(DATA), 0x1_0000);
        link(ring.descriptors(), index, &[all]);
        ring.offer(&[index]);
    }
    device.kick(0);
    for _ in 0..device.ring().size() {
        device.answer()?;
    }
    device.met = Met::Answered(device.ring().size());
    PASS
}
