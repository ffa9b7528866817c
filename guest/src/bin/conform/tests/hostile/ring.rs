//! Rings and descriptors that no driver writes.

use guest::bare::{Descriptor, INDIRECT, NEXT, Ring, WRITE, describe, link};
use guest::ensure;
use guest::mmio::INTERRUPT_CONFIG;
use guest::tap::{Point, Verdict};
use guest::virtio::feature::INDIRECT_DESC;

use super::{impossible_data, offer_with, survived};
use crate::device::{Device, Kind, Met, UNIT, until};
use crate::tests::{ALL, DISK, PASS, Test, needed, test};

/// Offset of indirect tables in the buffers.
const TABLE: usize = 0x2_0000;
const WRITERS: &[Kind] = &[Kind::Disk, Kind::Entropy];

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("2.7.5", "a descriptor that leads to itself", ALL, |device| chain(device, &[(0, 0)])),
    test("2.7.5", "a loop of two descriptors", ALL, |device| chain(device, &[(0, 1), (1, 0)])),
    test("2.7.5", "a loop after the first descriptor", ALL, |device| chain(device, &[(0, 1), (1, 2), (2, 1)])),
    test("2.7.5", "a chain through all descriptors, and round again", ALL, endless),
    test("2.7.5", "`next` is the size of the table", ALL, |device| chain(device, &[(0, device.ring().size())])),
    test("2.7.5", "`next` is 0xffff", ALL, |device| chain(device, &[(0, 0xffff)])),
    test("2.7.6", "a head that is the size of the table", ALL, |device| heads(device, &[device.ring().size()])),
    test("2.7.6", "a head of 0xffff", ALL, |device| heads(device, &[0xffff])),
    test("2.7.6", "avail.idx is one more than the ring ahead", ALL, |device| jump(device, device.ring().size() + 1)),
    test("2.7.6", "avail.idx is half the numbers ahead", ALL, |device| jump(device, 0x8000)),
    test("2.7.6", "avail.idx goes backwards", ALL, |device| jump(device, 0xffff)),
    test("2.7.6", "the same head twice in one batch", ALL, |device| same_head(device, 2)),
    test("2.7.6", "the same head in every slot of the ring", ALL, |device| same_head(device, device.ring().size())),
    test("2.7.6", "a head in the middle of another chain", DISK, middle),
    test("2.7.8", "the driver writes used.idx", ALL, used_written),
    test("2.7.5", "buffers of length 0", ALL, empty_buffers),
    test("2.7.5", "a buffer of 0xffffffff bytes", ALL, |device| impossible_data(device, device.at(0), u32::MAX)),
    test("2.7.5", "a buffer whose end wraps", ALL, |device| impossible_data(device, u64::MAX - 255, 512)),
    test("2.7.5", "a buffer at the last address", ALL, |device| impossible_data(device, u64::MAX, 512)),
    test("2.7.5", "a buffer below the memory", ALL, |device| impossible_data(device, device.ram.0 - 4096, 512)),
    test("2.7.5", "a buffer beyond the memory", ALL, |device| impossible_data(device, device.ram.0 + device.ram.1, 512)),
    test("2.7.5", "a buffer across the end of the memory", ALL, |device| impossible_data(device, device.ram.0 + device.ram.1 - 256, 512)),
    test("2.7.5", "more than 2^32 bytes in all", ALL, too_long),
    test("2.7.5", "a buffer in the device's own registers", ALL, |device| impossible_data(device, device.slot.base + 0x100, 512)),
    test("2.7.5", "a buffer over the device's own queue registers", ALL, |device| impossible_data(device, device.slot.base, 0x100)),
    test("2.7.5", "a writable buffer over the descriptors", WRITERS, |device| over(device, device.ring().descriptors().bus())),
    test("2.7.5", "a writable buffer over the available ring", WRITERS, |device| over(device, device.ring().driver().bus())),
    test("2.7.5", "a writable buffer over the used ring", WRITERS, |device| over(device, device.ring().device().bus())),
    test("2.7.4.2", "a readable buffer after a writable one", ALL, wrong_order),
    test("2.7.5", "flags that do not exist", ALL, unknown_flags),
    test("2.7.5", "descriptors rewritten while they are served", ALL, rewritten),
    test("2.7.5.3.1", "INDIRECT that was not negotiated", ALL, |device| { device.live(0)?; indirect(device, 16, 0) }),
    test("2.7.5.3.1", "a table of 0 bytes", ALL, |device| negotiated(device, 0, 0)),
    test("2.7.5.3.1", "a table of 24 bytes", ALL, |device| negotiated(device, 24, 0)),
    test("2.7.5.3.1", "a table of 4 GiB", ALL, |device| negotiated(device, 0xffff_fff0, 0)),
    test("2.7.5.3.1", "INDIRECT together with NEXT", ALL, |device| negotiated(device, 16, NEXT)),
    test("2.7.5.3.1", "INDIRECT inside a table", ALL, nested),
    test("2.7.5.3.1", "a table that refers to itself", ALL, self_table),
    test("2.7.5.3", "a loop in a table", ALL, |device| table_entry(device, 0)),
    test("2.7.5.3", "`next` outside a table", ALL, |device| table_entry(device, 4)),
    test("2.7.5.3", "`next` of 0xffff in a table", ALL, |device| table_entry(device, 0xffff)),
    test("2.7.5.3", "a table beyond the memory", ALL, |device| table_at(device, device.ram.0 + device.ram.1)),
    test("2.7.5.3", "a table across the end of the memory", ALL, |device| table_at(device, device.ram.0 + device.ram.1 - 8)),
    test("2.7.5.3", "a table at the last address", ALL, |device| table_at(device, u64::MAX - 7)),
    test("2.7.5.3", "a table at an odd address", ALL, |device| table_at(device, device.at(TABLE + 1))),
    test("2.7.5.3", "a table in the device's own registers", ALL, |device| table_at(device, device.slot.base)),
    test("2.7.5.3", "a table over the descriptors", ALL, |device| table_at(device, device.ring().descriptors().bus())),
    test("2.7.5.3.1", "a chain in a table that is longer than any queue", ALL, long_table),
    test("2.1.2", "DEVICE_NEEDS_RESET comes with a configuration interrupt", ALL, needs_reset_interrupts),
];

/// Descriptors with these links.
fn chain(device: &mut Device, links: &[(u16, u16)]) -> Verdict {
    let (first, _) = device.buffers(1);
    let [buffer, ..] = first;
    for (index, next) in links {
        describe(device.ring().descriptors(), *index, buffer.then(*next));
    }
    device.offer(&[0]);
    survived(device)
}

fn endless(device: &mut Device) -> Verdict {
    let ([buffer, ..], _) = device.buffers(1);
    let size = device.ring().size();
    for index in 0..size {
        describe(
            device.ring().descriptors(),
            index,
            buffer.then((index + 1) % size),
        );
    }
    device.offer(&[0]);
    survived(device)
}

fn heads(device: &mut Device, heads: &[u16]) -> Verdict {
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(heads);
    survived(device)
}

fn jump(device: &mut Device, by: u16) -> Verdict {
    device.chain(device.ring().descriptors(), 0, 1);
    let ring = device.ring();
    ring.set_available(ring.available().wrapping_add(by));
    device.kick(device.queue());
    survived(device)
}

fn same_head(device: &mut Device, times: u16) -> Verdict {
    device.chain(device.ring().descriptors(), 0, 1);
    let ring = device.ring();
    for slot in 0..times {
        ring.place(ring.available().wrapping_add(slot), 0);
    }
    ring.set_available(ring.available().wrapping_add(times));
    device.kick(device.queue());
    survived(device)
}

fn middle(device: &mut Device) -> Verdict {
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0, 1, 2]);
    survived(device)
}

fn used_written(device: &mut Device) -> Verdict {
    let order = core::sync::atomic::Ordering::SeqCst;
    device.ring().device().store_u16(2, 0x1234, order);
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
    until(20_000, || device.ring().used() != 0x1234);
    device.met = Met::Nothing;
    PASS
}

fn empty_buffers(device: &mut Device) -> Verdict {
    offer_with(device, |data| Descriptor { len: 0, ..data });
    device.settle();
    device.live(0)?;
    let empty = [Descriptor::readable(device.at(0), 0); 3];
    link(device.ring().descriptors(), 0, &empty);
    device.offer(&[0]);
    device.settle();
    device.live(0)?;
    let empty = [Descriptor::writable(0, 0); 3];
    link(device.ring().descriptors(), 0, &empty);
    device.offer(&[0]);
    survived(device)
}

fn too_long(device: &mut Device) -> Verdict {
    let (buffers, count) = device.buffers(1);
    let writable = !device.kind.transmits();
    let flags = if writable { WRITE } else { 0 };
    let huge = Descriptor::readable(device.at(0), u32::MAX).with(flags);
    let [first, ..] = buffers;
    let start = if count == 1 { huge } else { first };
    link(device.ring().descriptors(), 0, &[start, huge, huge]);
    device.offer(&[0]);
    survived(device)
}

fn over(device: &mut Device, address: u64) -> Verdict {
    offer_with(device, |data| Descriptor { address, ..data });
    survived(device)
}

fn wrong_order(device: &mut Device) -> Verdict {
    let (buffers, count) = device.buffers(1);
    let table = device.ring().descriptors();
    let at = device.at(0x4000);
    let (writable, readable) = (Descriptor::writable(at, 64), Descriptor::readable(at, 64));
    match (buffers, count) {
        ([header, data, status], 3) => link(table, 0, &[header, data, readable, status]),
        ([plain, ..], _) => link(table, 0, &[writable, plain, readable]),
    }
    device.offer(&[0]);
    survived(device)
}

fn unknown_flags(device: &mut Device) -> Verdict {
    offer_with(device, |data| data.with(0xfff8));
    survived(device)
}

/// The device may read each descriptor at any time, so every mixture is possible.
fn rewritten(device: &mut Device) -> Verdict {
    let (buffers, count) = device.buffers(1);
    let at = u16::from(count == 3);
    let data = buffers.get(count / 2).copied().unwrap_or_default();
    for round in 0..200_u32 {
        if device.is_broken() {
            device.live(0)?;
        }
        device.chain(device.ring().descriptors(), 0, 1);
        device.offer(&[0]);
        for wild in [
            Descriptor { len: 0, ..data },
            Descriptor { address: u64::MAX - 99, ..data },
            Descriptor { next: at, ..data.with(NEXT) },
            Descriptor { len: 512 * (round % 4), ..data },
        ] {
            describe(device.ring().descriptors(), at, wild);
        }
        until(2_000, || device.has_answers());
        while device.has_answers() {
            device.answer()?;
        }
    }
    survived(device)
}

/// A descriptor that refers to a table of this many bytes, with more flags. The table has one
/// buffer.
fn indirect(device: &mut Device, len: u32, flags: u16) -> Verdict {
    let table = device.memory.slice(TABLE..TABLE + 64);
    device.chain(&table, 0, 1);
    let whole = Descriptor::readable(table.bus(), len).with(INDIRECT | flags);
    describe(
        device.ring().descriptors(),
        0,
        Descriptor { next: 1, ..whole },
    );
    describe(
        device.ring().descriptors(),
        1,
        Descriptor::readable(device.at(UNIT), 16),
    );
    device.offer(&[0]);
    survived(device)
}

/// Starts the device with INDIRECT_DESC, `false` if it has none.
fn start(device: &mut Device) -> Result<bool, guest::tap::Failure> {
    Ok(device.live(INDIRECT_DESC)? & INDIRECT_DESC != 0)
}

const ABSENT: Verdict = Ok(Point::Skip("INDIRECT_DESC is not offered"));

fn negotiated(device: &mut Device, len: u32, flags: u16) -> Verdict {
    match start(device)? {
        true => indirect(device, len, flags),
        false => ABSENT,
    }
}

fn nested(device: &mut Device) -> Verdict {
    if !start(device)? {
        return ABSENT;
    }
    let (outer, inner) = (TABLE, TABLE + 0x1000);
    let table = device.memory.slice(inner..inner + 64);
    device.chain(&table, 0, 1);
    let whole = Descriptor::readable(table.bus(), 48).with(INDIRECT);
    describe(&device.memory.slice(outer..outer + 64), 0, whole);
    table_at(device, device.at(outer))
}

fn self_table(device: &mut Device) -> Verdict {
    if !start(device)? {
        return ABSENT;
    }
    let at = device.at(TABLE);
    let itself = Descriptor::readable(at, 16).with(INDIRECT);
    describe(&device.memory.slice(TABLE..TABLE + 64), 0, itself);
    table_at(device, at)
}

/// A table of four entries, the first of which is linked to `next`.
fn table_entry(device: &mut Device, next: u16) -> Verdict {
    if !start(device)? {
        return ABSENT;
    }
    let ([buffer, ..], _) = device.buffers(1);
    let table = device.memory.slice(TABLE..TABLE + 64);
    describe(&table, 0, buffer.then(next));
    let whole = Descriptor::readable(table.bus(), 64).with(INDIRECT);
    describe(device.ring().descriptors(), 0, whole);
    device.offer(&[0]);
    survived(device)
}

/// A table of 16 bytes at an address.
fn table_at(device: &mut Device, address: u64) -> Verdict {
    if device.transport.features() & INDIRECT_DESC == 0 && !start(device)? {
        return ABSENT;
    }
    let whole = Descriptor::readable(address, 16).with(INDIRECT);
    describe(device.ring().descriptors(), 0, whole);
    device.offer(&[0]);
    survived(device)
}

fn long_table(device: &mut Device) -> Verdict {
    if !start(device)? {
        return ABSENT;
    }
    let entries = 4000;
    let table = device.memory.slice(TABLE..TABLE + 16 * entries);
    let writable = device.kind == Kind::Entropy;
    let byte = Descriptor::readable(device.at(0), 1);
    let byte = if writable { byte.with(WRITE) } else { byte };
    for index in 0..3999 {
        describe(&table, index, byte.then(index + 1));
    }
    describe(&table, 3999, byte);
    let whole = Descriptor::readable(table.bus(), 16 * 4000).with(INDIRECT);
    describe(device.ring().descriptors(), 0, whole);
    device.offer(&[0]);
    survived(device)
}

fn needs_reset_interrupts(device: &mut Device) -> Verdict {
    device.acknowledge(u32::MAX);
    device.offer(&[0xffff]);
    needed!(
        device.settle() == Met::NeedsReset,
        "it does not ask for a reset"
    );
    until(1_000_000, || device.interrupts() & INTERRUPT_CONFIG != 0);
    let found = device.interrupts();
    ensure!(
        found & INTERRUPT_CONFIG != 0,
        "InterruptStatus is {found:#x}"
    );
    PASS
}

/// Overlapping rings are set up by [`super::registers`].
pub(super) fn overlapping(device: &Device, areas: [usize; 3]) -> Ring {
    let [first, second] = &device.ring_memory;
    let memory = if device.kind.transmits() {
        second
    } else {
        first
    };
    Ring::at(memory, 16, areas)
}
