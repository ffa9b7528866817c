//! The memory balloon (§5.5).

use guest::bare::{Descriptor, INDIRECT, Ring, describe, link};
use guest::mmio::offset;
use guest::tap::{Failure, Verdict};
use guest::virtio::feature;
use guest::{Registers, ensure};

use super::{BALLOON, PASS, Test, needed, test};
use crate::device::{BLANK, DATA, Device, until};
use crate::plain::readable;

/// The queues (§5.5.2). That of reports is 3 if the statistics' feature is negotiated and that of
/// hints is not: Linux counts only the queues of negotiated features, the text counts all.
pub(super) const INFLATE: u16 = 0;
pub(super) const STATISTICS: u16 = 2;
pub(super) const REPORTING: [u16; 2] = [3, 4];
/// Features (§5.5.3).
pub(super) const STATS_VQ: u64 = 1 << 1;
pub(super) const PAGE_REPORTING: u64 = 1 << 5;
/// Fields of the configuration space (§5.5.4).
const NUM_PAGES: usize = offset::CONFIG;
pub(super) const ACTUAL: usize = offset::CONFIG + 4;
/// Bytes of a page, whatever the guest's is.
pub(super) const PAGE: usize = 4096;
pub(super) const PAGE_LEN: u32 = 4096;
/// Offset of the pages that are given up, and their number; of the queue that a test sets up.
pub(super) const PAGES: usize = 0x1_0000;
const COUNT: usize = 16;
pub(super) const QUEUE: usize = 0x3_0000;
/// Longest time for an answer, and how long to watch for none, in microseconds.
const ANSWER: u64 = 5_000_000;
const QUIET: u64 = 20_000;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.5.2", "there is a queue to inflate and one to deflate", BALLOON, two_queues),
    test("5.5.4", "num_pages reads the same before FEATURES_OK", BALLOON, num_pages),
    test("5.5.4", "num_pages is read-only", BALLOON, read_only),
    test("5.5.6", "actual reads as written", BALLOON, actual),
    test("5.5.6", "an inflated page has its bytes or zeroes, those around it keep theirs", BALLOON, |device| inflate(device, &[5])),
    test("5.5.6", "several pages in ascending order", BALLOON, |device| inflate(device, &[3, 4, 5, 6, 7])),
    test("5.5.6", "several pages in descending order", BALLOON, |device| inflate(device, &[9, 8, 7, 6])),
    test("5.5.6", "several pages that are not neighbours", BALLOON, |device| inflate(device, &[1, 3, 8, 5, 14])),
    test("5.5.6", "the same page twice", BALLOON, |device| inflate(device, &[4, 4, 6, 4])),
    test("2.7.4.2", "page numbers cut into two at every place", BALLOON, cut),
    test("2.7.4.2", "page numbers in buffers of one byte", BALLOON, bytes),
    test("2.7.5.3", "INDIRECT_DESC: page numbers in a table", BALLOON, table),
    test("5.5.6", "a page can be used again without and with deflating it", BALLOON, used_again),
    test("5.5.6", "256 page numbers in one buffer", BALLOON, many),
    test("5.5.6.3", "STATS_VQ: the buffer waits until the device asks", BALLOON, statistics),
    test("5.5.6.7", "PAGE_REPORTING: a reported page has any bytes, those around it keep theirs", BALLOON, reported),
    test("5.5.6.7", "PAGE_REPORTING: 32 pages in one buffer", BALLOON, many_reported),
];

fn two_queues(device: &mut Device) -> Verdict {
    for index in [0, 1] {
        device.registers.write(offset::QUEUE_SEL, index);
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        ensure!(max > 0, "no queue {index}");
    }
    PASS
}

fn num_pages(device: &mut Device) -> Verdict {
    let live = device.registers.read(NUM_PAGES);
    device.reset()?;
    let early = device.registers.read(NUM_PAGES);
    ensure!(live == early, "{early} before, {live} after");
    PASS
}

fn read_only(device: &mut Device) -> Verdict {
    let before = device.registers.read(NUM_PAGES);
    device.registers.write(NUM_PAGES, 77);
    device.registers.write_u8(NUM_PAGES, 5);
    let after = device.registers.read(NUM_PAGES);
    ensure!(before == after, "{before}, then {after}");
    PASS
}

fn actual(device: &mut Device) -> Verdict {
    for value in [1, 0x1234_5678, 0] {
        device.registers.write(ACTUAL, value);
        let found = device.registers.read(ACTUAL);
        ensure!(found == value, "{found:#x}, not {value:#x}");
    }
    PASS
}

/// The number of the page at an address.
pub(super) fn page_of(address: u64) -> u32 {
    u32::try_from(address / PAGE as u64).unwrap_or(0)
}

/// Writes the numbers of these pages into the buffers, and fills all pages.
fn numbers(device: &Device, pages: &[usize]) -> Descriptor {
    device.memory.slice(PAGES..PAGES + COUNT * PAGE).fill(BLANK);
    for (place, page) in pages.iter().enumerate() {
        let number = page_of(device.at(PAGES + page * PAGE)).to_le_bytes();
        device.memory.write(DATA + 4 * place, &number);
    }
    readable(&device.memory.slice(DATA..DATA + 4 * pages.len()))
}

/// Checks that only these pages were changed, to zeroes if at all.
fn intact(device: &Device, pages: &[usize]) -> Result<(), Failure> {
    for page in 0..COUNT {
        let mut bytes = [0; PAGE];
        device.memory.read(PAGES + page * PAGE, &mut bytes);
        let kept = bytes.iter().all(|byte| *byte == BLANK);
        let zeroed = bytes.iter().all(|byte| *byte == 0) && pages.contains(&page);
        ensure!(kept || zeroed, "page {page} has other bytes");
    }
    Ok(())
}

/// Puts buffers into the queue to inflate, and waits until they are used.
pub(super) fn offer(device: &Device, buffers: &[Descriptor]) -> Result<(), Failure> {
    let [ring, _] = &device.rings;
    let before = ring.used();
    link(ring.descriptors(), 0, buffers);
    ring.offer(&[0]);
    device.kick(INFLATE);
    ensure!(until(ANSWER, || ring.used() != before), "no answer");
    let (_, len) = ring.element(before);
    ensure!(len == 0, "len {len}");
    Ok(())
}

fn inflate(device: &mut Device, pages: &[usize]) -> Verdict {
    let buffer = numbers(device, pages);
    offer(device, &[buffer])?;
    intact(device, pages)?;
    PASS
}

fn cut(device: &mut Device) -> Verdict {
    let pages = [2, 5, 9];
    for at in 1..12 {
        let whole = numbers(device, &pages);
        let rest = Descriptor::readable(whole.address + u64::from(at), whole.len - at);
        offer(device, &[Descriptor { len: at, ..whole }, rest])?;
        intact(device, &pages)?;
    }
    PASS
}

fn single(whole: Descriptor) -> [Descriptor; 12] {
    core::array::from_fn(|at| Descriptor::readable(whole.address + at as u64, 1))
}

fn bytes(device: &mut Device) -> Verdict {
    let whole = numbers(device, &[2, 5, 9]);
    offer(device, &single(whole))?;
    intact(device, &[2, 5, 9])?;
    PASS
}

fn table(device: &mut Device) -> Verdict {
    let accepted = device.live(feature::INDIRECT_DESC)?;
    let indirect = accepted & feature::INDIRECT_DESC != 0;
    needed!(indirect, "INDIRECT_DESC is not offered");
    let whole = numbers(device, &[2, 5, 9]);
    let table = device.memory.slice(QUEUE..QUEUE + 16 * 12);
    link(&table, 0, &single(whole));
    offer(device, &[readable(&table).with(INDIRECT)])?;
    intact(device, &[2, 5, 9])?;
    PASS
}

fn used_again(device: &mut Device) -> Verdict {
    for deflate in [false, true] {
        let buffer = numbers(device, &[4]);
        offer(device, &[buffer])?;
        if deflate {
            link(device.ring().descriptors(), 0, &[buffer]);
            device.offer(&[0]);
            let (_, written) = device.answer()?;
            ensure!(written == 0, "len {written}");
        }
        let page = device.memory.slice(PAGES + 4 * PAGE..PAGES + 5 * PAGE);
        page.fill(0x5a);
        let mut bytes = [0; PAGE];
        page.read(0, &mut bytes);
        ensure!(bytes == [0x5a; PAGE], "it does not keep what is written");
    }
    PASS
}

/// As many as Linux gives up at once, of 16 pages.
fn many(device: &mut Device) -> Verdict {
    let pages: [usize; 256] = core::array::from_fn(|nth| nth % COUNT);
    inflate(device, &pages)
}

/// Starts with these features and `queue` at [`QUEUE`], if there are such.
pub(super) fn with_queue(
    device: &mut Device,
    features: u64,
    queue: u16,
) -> Result<Option<Ring>, Failure> {
    let accepted = device.prepare(features)?;
    device.registers.write(offset::QUEUE_SEL, queue.into());
    let absent = device.registers.read(offset::QUEUE_SIZE_MAX) == 0;
    if accepted & features != features || absent {
        return Ok(None);
    }
    let memory = device.memory.slice(QUEUE..QUEUE + Ring::bytes(64));
    let ring = Ring::new(&memory, 64);
    ring.attach(&device.registers, queue);
    device.transport.start();
    Ok(Some(ring))
}

fn statistics(device: &mut Device) -> Verdict {
    let Some(ring) = with_queue(device, STATS_VQ, STATISTICS)? else {
        return Ok(guest::tap::Point::Skip("STATS_VQ is not offered"));
    };
    // MEMFREE and MEMTOT.
    let entries = [
        [4, 0, 0, 0, 16, 0, 0, 0, 0, 0],
        [5, 0, 0, 0, 32, 0, 0, 0, 0, 0],
    ];
    device.memory.write(DATA, entries.as_flattened());
    let buffer = readable(&device.memory.slice(DATA..DATA + 20));
    describe(ring.descriptors(), 0, buffer);
    ring.offer(&[0]);
    device.kick(STATISTICS);
    if until(QUIET, || ring.used() != 0) {
        let (_, len) = ring.element(0);
        ensure!(len == 0, "len {len}");
    }
    device.plain()?;
    PASS
}

/// Reports these pages, by each way to count queues.
fn report(device: &mut Device, pages: &[usize]) -> Verdict {
    let mut found = false;
    for queue in REPORTING {
        let Some(ring) = with_queue(device, STATS_VQ | PAGE_REPORTING, queue)? else {
            continue;
        };
        found = true;
        numbers(device, &[]);
        for (place, page) in (0_u16..).zip(pages) {
            let address = device.at(PAGES + page * PAGE);
            let buffer = Descriptor::writable(address, PAGE_LEN);
            let last = usize::from(place) + 1 == pages.len();
            let buffer = if last { buffer } else { buffer.then(place + 1) };
            describe(ring.descriptors(), place, buffer);
        }
        ring.offer(&[0]);
        device.kick(queue);
        ensure!(until(ANSWER, || ring.used() != 0), "no answer");
        for page in (0..COUNT).filter(|page| !pages.contains(page)) {
            let at = PAGES + page * PAGE;
            ensure!(device.is_blank(at..at + PAGE), "page {page} changed");
        }
    }
    needed!(found, "PAGE_REPORTING is not offered");
    PASS
}

fn reported(device: &mut Device) -> Verdict {
    report(device, &[3])
}

fn many_reported(device: &mut Device) -> Verdict {
    let pages: [usize; 32] = core::array::from_fn(|nth| nth % (COUNT - 1));
    report(device, &pages)
}
