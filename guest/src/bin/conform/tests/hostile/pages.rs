//! Valid rings with invalid requests of a memory balloon.

use guest::bare::{Descriptor, WRITE, describe, link};
use guest::tap::Verdict;
use guest::{Registers, ensure};

use super::survived;
use crate::device::{DATA, Device, until};
use crate::plain::readable;
use crate::tests::balloon::{
    ACTUAL, INFLATE, PAGE, PAGE_LEN, PAGE_REPORTING, PAGES, REPORTING, STATISTICS, STATS_VQ, offer,
    page_of, with_queue,
};
use crate::tests::{BALLOON, PASS, Test, test};

/// How long to wait for a reaction, in microseconds.
const SETTLING: u64 = 200_000;

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("5.5.6", "a page below the memory", BALLOON, |device| number(device, &[page_of(device.ram.0) - 1])),
    test("5.5.6", "a page beyond the memory", BALLOON, |device| number(device, &[page_of(device.ram.0 + device.ram.1)])),
    test("5.5.6", "the pages 0 and 0xffffffff", BALLOON, |device| number(device, &[0, u32::MAX])),
    test("5.5.6", "the device's own registers", BALLOON, |device| number(device, &[page_of(device.slot.base)])),
    test("5.5.6", "a run of pages across the end of the memory", BALLOON, |device| { let end = page_of(device.ram.0 + device.ram.1); number(device, &[end - 1, end, end + 1]) }),
    test("5.5.6", "the page of the page numbers themselves", BALLOON, |device| number(device, &[page_of(device.at(0)); 10])),
    test("5.5.6", "the pages of its own rings", BALLOON, own_rings),
    test("5.5.6", "0 bytes of page numbers", BALLOON, |device| odd(device, 0)),
    test("5.5.6", "1 byte of a page number", BALLOON, |device| odd(device, 1)),
    test("5.5.6", "3 bytes of a page number", BALLOON, |device| odd(device, 3)),
    test("5.5.6", "a page number and 3 bytes", BALLOON, |device| odd(device, 7)),
    test("5.5.6", "page numbers in a writable buffer", BALLOON, |device| bad(device, |buffer| buffer.with(WRITE))),
    test("5.5.6", "page numbers from beyond the memory", BALLOON, |device| { let address = device.ram.0 + device.ram.1; bad(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.5.6", "page numbers from the device's own registers", BALLOON, |device| { let address = device.slot.base; bad(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.5.6", "40000 times the same page in one buffer", BALLOON, much),
    test("5.5.6", "deflating what was never inflated", BALLOON, deflate),
    test("5.5.4", "actual is larger than the memory", BALLOON, |device| { device.registers.write(ACTUAL, u32::MAX); survived_config(device) }),
    test("5.5.6.3", "statistics of unknown tags, and of no whole entry", BALLOON, |device| statistics(device, 0xff, 19, 1)),
    test("5.5.6.3", "64 KiB of statistics", BALLOON, |device| statistics(device, 4, 0x1_0000, 1)),
    test("5.5.6.3", "16 buffers of statistics at once", BALLOON, |device| statistics(device, 5, 10, 16)),
    test("5.5.6.3", "0 bytes of statistics", BALLOON, |device| statistics(device, 5, 0, 1)),
    test("5.5.6.7", "a reported page that is readable", BALLOON, |device| report(device, |device| Descriptor::readable(device.at(PAGES), PAGE_LEN))),
    test("5.5.6.7", "a report of 1 byte", BALLOON, |device| report(device, |device| Descriptor::writable(device.at(PAGES), 1))),
    test("5.5.6.7", "a report that begins and ends inside pages", BALLOON, |device| report(device, |device| Descriptor::writable(device.at(PAGES + 100), 2 * PAGE_LEN))),
    test("5.5.6.7", "a report beyond the memory", BALLOON, |device| report(device, |device| Descriptor::writable(device.ram.0 + device.ram.1, PAGE_LEN))),
    test("5.5.6.7", "a report across the end of the memory", BALLOON, |device| report(device, |device| Descriptor::writable(device.ram.0 + device.ram.1 - PAGE as u64, 2 * PAGE_LEN))),
    test("5.5.6.7", "a report of the device's own registers", BALLOON, |device| report(device, |device| Descriptor::writable(device.slot.base, PAGE_LEN))),
    test("5.5.2", "kicks of queues that do not exist", BALLOON, |device| { (5..20).for_each(|queue| device.kick(queue)); survived(device) }),
];

/// Inflates these pages: each buffer is used, and the VMM lives on.
fn number(device: &mut Device, pages: &[u32]) -> Verdict {
    for (place, page) in pages.iter().enumerate() {
        device.memory.write(DATA + 4 * place, &page.to_le_bytes());
    }
    let all = readable(&device.memory.slice(DATA..DATA + 4 * pages.len()));
    offer(device, &[all])?;
    PASS
}

/// Their content is lost, so nothing about the answer is asked.
fn own_rings(device: &mut Device) -> Verdict {
    let [first, second] = &device.ring_memory;
    let mut place = 0;
    for memory in [first, second] {
        for at in (0..memory.len()).step_by(PAGE) {
            let page = page_of(memory.bus() + at as u64);
            device.memory.write(DATA + place, &page.to_le_bytes());
            place += 4;
        }
    }
    send(device, readable(&device.memory.slice(DATA..DATA + place)));
    survived(device)
}

/// Puts a buffer into the queue to inflate.
fn send(device: &Device, buffer: Descriptor) {
    let [ring, _] = &device.rings;
    link(ring.descriptors(), 0, &[buffer]);
    ring.offer(&[0]);
    device.kick(INFLATE);
}

/// Inflates by a buffer of this many bytes.
fn odd(device: &mut Device, len: u32) -> Verdict {
    bad(device, |buffer| Descriptor { len, ..buffer })
}

/// Inflates a page by a buffer that is changed.
fn bad(device: &mut Device, change: impl Fn(Descriptor) -> Descriptor) -> Verdict {
    let page = page_of(device.at(PAGES));
    device.memory.write(DATA, &page.to_le_bytes());
    device.memory.write(DATA + 4, &page.to_le_bytes());
    let buffer = readable(&device.memory.slice(DATA..DATA + 4));
    send(device, change(buffer));
    let [ring, _] = &device.rings;
    until(SETTLING, || ring.used() != 0 || device.is_broken());
    PASS
}

fn much(device: &mut Device) -> Verdict {
    let page = page_of(device.at(PAGES));
    let all = device.memory.slice(PAGES + PAGE..PAGES + PAGE + 160_000);
    for at in (0..all.len()).step_by(4) {
        all.write(at, &page.to_le_bytes());
    }
    offer(device, &[readable(&all)])?;
    PASS
}

fn deflate(device: &mut Device) -> Verdict {
    for page in [0, page_of(device.at(PAGES)), u32::MAX] {
        device.memory.write(DATA, &page.to_le_bytes());
        let buffer = readable(&device.memory.slice(DATA..DATA + 4));
        link(device.ring().descriptors(), 0, &[buffer]);
        device.offer(&[0]);
        let (_, written) = device.answer()?;
        ensure!(written == 0, "len {written}");
    }
    PASS
}

fn survived_config(device: &mut Device) -> Verdict {
    device.plain()?;
    device.registers.write(ACTUAL, 0);
    PASS
}

/// Sends `count` buffers of `len` bytes, each entry with this tag.
fn statistics(device: &mut Device, tag: u8, len: usize, count: u16) -> Verdict {
    let Some(ring) = with_queue(device, STATS_VQ, STATISTICS)? else {
        return Ok(guest::tap::Point::Skip("STATS_VQ is not offered"));
    };
    let all = device.memory.slice(PAGES..PAGES + 0x1_0000);
    all.fill(tag);
    let all = all.slice(0..len);
    for index in 0..count {
        describe(ring.descriptors(), index, readable(&all));
        ring.offer(&[index]);
    }
    device.kick(STATISTICS);
    survived(device)
}

/// Reports one buffer, by each way to count queues.
fn report(device: &mut Device, buffer: impl Fn(&Device) -> Descriptor) -> Verdict {
    for queue in REPORTING {
        let features = STATS_VQ | PAGE_REPORTING;
        let Some(ring) = with_queue(device, features, queue)? else {
            continue;
        };
        describe(ring.descriptors(), 0, buffer(device));
        ring.offer(&[0]);
        device.kick(queue);
        until(SETTLING, || ring.used() != 0 || device.is_broken());
    }
    survived(device)
}
