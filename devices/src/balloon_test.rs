use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::feature::{PAGE_REPORTING, STATS_VQ};
use super::*;
use crate::rig::{DATA, DEVICE, DRIVER, RAM, RAM_LEN, Rig, TABLE, WRITE};

const DEFLATE: usize = 1;
const REPORTS: usize = 3;

/// The number of the page at `address`.
fn page(address: u64) -> u32 {
    u32::try_from(address / PAGE).unwrap()
}

/// A device of which the driver uses one queue.
struct Bench {
    rig: Rig,
    balloon: Balloon,
    index: usize,
    queues: Queues,
}

impl Bench {
    fn new(index: usize, features: u64) -> Bench {
        let rig = Rig::new(16);
        let mut balloon = Balloon::new(STATS_VQ | PAGE_REPORTING).unwrap();
        balloon.activate(features, &rig.memory);
        let mut queues: Vec<_> = (0..5).map(|_| None).collect();
        queues[index] = Some(rig.queue(0));
        // Only zeroes are there without it.
        let len = usize::try_from(RAM + RAM_LEN - DATA).unwrap();
        rig.write(DATA, &vec![0x5a; len]);
        Bench { rig, balloon, index, queues: Queues::new(queues) }
    }

    fn kick(&mut self) {
        self.balloon
            .process_queue(self.index, &mut self.queues)
            .unwrap();
    }

    /// Makes `bytes` available at DATA in one buffer.
    fn offer(&mut self, bytes: &[u8]) {
        self.rig.write(DATA, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.rig.chain(0, &[(DATA, len, 0)]);
        self.rig.offer(0);
        self.kick();
    }

    /// Makes the numbers of these pages available.
    fn name(&mut self, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.offer(&bytes);
    }

    /// The addresses of the pages behind DATA's that are zero.
    fn zeroed(&self) -> Vec<u64> {
        let pages = (DATA + PAGE..RAM + RAM_LEN).step_by(4096);
        let is_zero = |address: &u64| self.rig.read(*address, 4096) == [0; 4096];
        pages.filter(is_zero).collect()
    }

    fn given_back(&self) -> u64 {
        self.balloon.target.given_back.load(Ordering::SeqCst)
    }
}

#[test]
fn named_pages_are_given_back_in_any_order_and_no_others() {
    let at = |nth: u64| DATA + nth * PAGE;
    for (nth, expected) in [
        (vec![1], 1),
        (vec![2, 3, 4], 3),
        (vec![9, 8, 7], 3),
        (vec![3, 5, 4, 200], 4),
    ] {
        let mut bench = Bench::new(INFLATE, 0);
        let pages: Vec<u32> = nth.iter().map(|nth| page(at(*nth))).collect();
        bench.name(&pages);
        let mut addresses: Vec<u64> = nth.iter().map(|nth| at(*nth)).collect();
        addresses.sort_unstable();
        assert_eq!(bench.zeroed(), addresses);
        assert_eq!(bench.given_back(), expected * PAGE);
        assert_eq!((bench.rig.used_idx(), bench.rig.used(0)), (1, (0, 0)));
    }
    // Twice is once more, and the guest may write to them afterwards.
    let mut bench = Bench::new(INFLATE, 0);
    bench.name(&[page(at(1)), page(at(1))]);
    bench.name(&[page(at(1))]);
    assert_eq!(bench.zeroed(), [at(1)]);
    bench.rig.write(at(1), &[1]);
    assert_eq!(bench.rig.read(at(1), 1), [1]);
}

#[test]
fn what_is_no_page_of_ram_is_ignored() {
    let mut bench = Bench::new(INFLATE, 0);
    let (below, above) = (page(RAM) - 1, page(RAM + RAM_LEN));
    bench.name(&[0, 1, below, above, above + 1, u32::MAX, u32::MAX - 1, 0]);
    assert_eq!((bench.given_back(), bench.rig.used_idx()), (0, 1));
    // 1 to 3 bytes are no number, and those behind a number are dropped.
    let number = page(DATA + PAGE).to_le_bytes();
    for len in 1..4 {
        bench.offer(&number[..len]);
    }
    assert_eq!((bench.given_back(), bench.rig.used_idx()), (0, 4));
    bench.offer(&[&number[..], &[1, 2, 3]].concat());
    assert_eq!((bench.given_back(), bench.rig.used_idx()), (PAGE, 5));
    // A writable buffer has no numbers; neither has one of no bytes.
    bench.rig.chain(1, &[(DATA, 4, WRITE)]);
    bench.rig.chain(2, &[(DATA, 0, 0)]);
    bench.rig.offer(1);
    bench.rig.offer(2);
    bench.kick();
    assert_eq!((bench.given_back(), bench.rig.used_idx()), (PAGE, 7));
    assert_eq!(bench.zeroed(), [DATA + PAGE]);
}

#[test]
fn a_number_may_be_in_several_descriptors() {
    let mut bench = Bench::new(INFLATE, 0);
    bench.rig.write(DATA, &page(DATA + PAGE).to_le_bytes());
    bench
        .rig
        .chain(0, &[(DATA, 1, 0), (DATA + 1, 2, 0), (DATA + 3, 1, 0)]);
    bench.rig.offer(0);
    bench.kick();
    assert_eq!(bench.zeroed(), [DATA + PAGE]);
}

#[test]
fn a_buffer_of_any_length_is_a_bounded_request() {
    let mut bench = Bench::new(INFLATE, 0);
    let mut pages = vec![0; PAGES_MAX];
    let last = pages.last_mut().unwrap();
    *last = page(RAM + RAM_LEN - PAGE);
    pages.push(page(RAM + RAM_LEN - 2 * PAGE));
    bench.name(&pages);
    assert_eq!(bench.given_back(), PAGE);
    assert_eq!(bench.zeroed().last(), Some(&(RAM + RAM_LEN - PAGE)));
}

#[test]
fn a_ring_that_is_given_back_is_a_ring_of_zeroes() {
    for area in [TABLE, DRIVER, DEVICE, DATA] {
        let mut bench = Bench::new(INFLATE, 0);
        bench.rig.write(DATA, &page(area).to_le_bytes());
        bench.rig.chain(0, &[(DATA, 4, 0)]);
        bench.rig.offer(0);
        let served = bench.balloon.process_queue(INFLATE, &mut bench.queues);
        // The available index went back to 0, which is invalid.
        assert_eq!(served.is_err(), area == DRIVER);
        assert_eq!((bench.given_back(), bench.rig.used_idx()), (PAGE, 1));
    }
}

#[test]
fn pages_that_the_driver_takes_back_keep_their_content() {
    let mut bench = Bench::new(DEFLATE, 0);
    bench.name(&[page(DATA + PAGE), u32::MAX]);
    assert_eq!((bench.given_back(), bench.rig.used_idx()), (0, 1));
    assert!(bench.zeroed().is_empty());
}

#[test]
fn reported_memory_is_given_back_as_far_as_it_is_whole_pages() {
    let mut bench = Bench::new(REPORTS, STATS_VQ | PAGE_REPORTING);
    let at = DATA + 16 * PAGE;
    let buffers = [
        (at, 8192, WRITE),
        (at + 0x3001, 4095, WRITE),
        (at + 0x4fff, 4098, WRITE),
        (at + 0x8000, 1, WRITE),
        (RAM + RAM_LEN - PAGE, 4096, WRITE),
    ];
    bench.rig.chain(0, &buffers);
    bench.rig.offer(0);
    // Readable buffers are not reports.
    bench.rig.chain(8, &[(at + 0x9000, 4096, 0)]);
    bench.rig.offer(8);
    bench.kick();
    let expected = [at, at + PAGE, at + 5 * PAGE, RAM + RAM_LEN - PAGE];
    assert_eq!(bench.zeroed(), expected);
    assert_eq!(bench.given_back(), 4 * PAGE);
    assert_eq!((bench.rig.used_idx(), bench.rig.used(0)), (2, (0, 0)));
}

/// Linux counts only the queues that were negotiated; the specification counts all.
#[test]
fn the_queue_of_reports_depends_on_the_features() {
    let both = STATS_VQ | PAGE_REPORTING;
    for (index, features, gives_back) in [
        (2, PAGE_REPORTING, true),
        (4, PAGE_REPORTING, true),
        (3, both, true),
        (4, both, true),
        (2, both, false),
        (2, 0, false),
        (3, STATS_VQ, false),
        (4, 0, false),
        (DEFLATE, both, false),
        (INFLATE, both, false),
    ] {
        let mut bench = Bench::new(index, features);
        bench.rig.chain(0, &[(DATA + PAGE, 4096, WRITE)]);
        bench.rig.offer(0);
        bench.kick();
        assert_eq!(bench.given_back() > 0, gives_back, "{index} {features:#x}");
        // The queue of the statistics holds it.
        let held = index == 2 && features == both;
        assert_eq!(bench.rig.used_idx(), u16::from(!held));
    }
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_are_requested_by_using_the_buffer_and_only_then() {
    let mut bench = Bench::new(STATISTICS, STATS_VQ);
    bench.offer(&entry(4, 1 << 20));
    assert_eq!(bench.rig.used_idx(), 0, "nobody wants them");
    let target = bench.balloon.target();
    for nth in 1..4 {
        target.request_statistics();
        bench.balloon.handle_event(0, &mut bench.queues).unwrap();
        // The event may be reported again.
        bench.balloon.handle_event(0, &mut bench.queues).unwrap();
        assert_eq!((bench.rig.used_idx(), bench.balloon.asked), (nth, true));
        bench.offer(&entry(4, 2 << 20));
        assert_eq!((bench.rig.used_idx(), bench.balloon.asked), (nth, false));
    }
    // However many buffers there are, a request uses one.
    for _ in 0..4 {
        bench.rig.offer(0);
    }
    bench.kick();
    target.request_statistics();
    bench.balloon.handle_event(0, &mut bench.queues).unwrap();
    assert_eq!(bench.rig.used_idx(), 4);
    // A reset ends the request.
    target.request_statistics();
    bench.balloon.reset();
    assert!(!bench.balloon.asked && !target.wanted.load(Ordering::SeqCst));
}

#[test]
fn statistics_may_be_in_any_order_and_have_unknown_tags() {
    let read = |bytes: &[u8]| {
        let rig = Rig::new(16);
        rig.write(DATA, bytes);
        rig.chain(0, &[(DATA, u32::try_from(bytes.len()).unwrap(), 0)]);
        rig.offer(0);
        let mut chain = rig.queue(0).pop().unwrap().unwrap();
        statistics(chain.readable())
    };
    assert_eq!((read(&[]), read(&[0; 9])), (None, None));
    let entries = [
        entry(7, 3 << 20),
        entry(0xffff, 1),
        entry(2, 12),
        entry(7, 5 << 20),
        vec![4; 9],
    ];
    let values = read(&entries.concat()).unwrap();
    assert_eq!(text(&values), " 12 major faults; 5 MiB of caches;");
    let many = entry(0xffff, 0).repeat(ENTRIES_MAX);
    let many = [many, entry(4, 0)].concat();
    assert_eq!(read(&many), Some([None; 10]), "one beyond the limit");
}

#[test]
fn figures_are_those_of_host_and_device_and_what_the_guest_has_sent_last() {
    let mut bench = Bench::new(STATISTICS, STATS_VQ);
    let target = bench.balloon.target();
    target.set(8 * PAGE);
    target.write(ACTUAL, &[3, 0, 0, 0]);
    target.given_back.store(99, Ordering::SeqCst);
    let first = [
        ("target_bytes", 8 * PAGE),
        ("actual_bytes", 3 * PAGE),
        ("given_back_bytes", 99),
    ];
    assert_eq!(target.figures(), first);
    // Without a request, too: Linux sends some at its start.
    bench.offer(&[entry(4, 70_000), entry(3, 5), entry(10, 1)].concat());
    let known = [("minor_faults", 5), ("free_bytes", 70_000)];
    assert_eq!(target.figures(), [&first[..], &known].concat());
    // The last ones stay known: Linux resets the device when it powers off.
    bench.balloon.reset();
    let first = [first[0], ("actual_bytes", 0), first[2]];
    assert_eq!(target.figures(), [&first[..], &known].concat());
}

#[test]
fn memory_that_the_guest_takes_back_by_itself_is_noticed_once_per_target() {
    let balloon = Balloon::new(0).unwrap();
    let target = balloon.target();
    let actual = |pages: u32| {
        target.write(ACTUAL, &pages.to_le_bytes());
        target.took_back.load(Ordering::SeqCst)
    };
    target.set(8 * PAGE);
    // It follows the target, up and down.
    assert!(!actual(4) && !actual(8));
    target.set(2 * PAGE);
    assert!(!actual(6) && !actual(2));
    target.set(8 * PAGE);
    assert!(!actual(7) && actual(6) && actual(8) && actual(1));
    target.set(9 * PAGE);
    assert!(!actual(9) && actual(8));
}

#[test]
fn the_target_is_read_and_what_the_driver_has_is_written() {
    let mut balloon = Balloon::new(0).unwrap();
    let (target, config) = (balloon.target(), balloon.config());
    let read = || {
        let mut bytes = [0xff; 12];
        config.read(0, &mut bytes);
        bytes
    };
    assert!(target.set(0x1234_5fff) && !target.set(0x1234_5000));
    config.write(0, &[0xff; 4]);
    config.write(8, &[0xff; 4]);
    config.write(usize::MAX, &[1]);
    assert_eq!(read(), [0x45, 0x23, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    config.write(3, &[9, 1, 2]);
    config.write(7, &[3, 9]);
    assert_eq!(read()[..8], [0x45, 0x23, 1, 0, 1, 2, 0, 3]);
    config.write(4, &[0xff; 4]);
    assert!(
        target
            .to_string()
            .starts_with("target 291 MiB, actual 16777215 MiB")
    );
    balloon.reset();
    assert_eq!(read()[..8], [0x45, 0x23, 1, 0, 0, 0, 0, 0]);
    assert!(target.set(u64::MAX));
}

/// RAM of 8 MiB, filled with ones.
fn filled(region: MmapRegion) -> (Arc<GuestMemoryMmap>, Memory) {
    let region = GuestRegionMmap::new(region, GuestAddress(RAM)).unwrap();
    let ram = Arc::new(GuestMemoryMmap::from_regions(vec![region]).unwrap());
    ram.write_slice(&vec![1; 8 << 20], GuestAddress(RAM))
        .unwrap();
    let page = std::num::NonZeroUsize::new(4096).unwrap();
    let memory = Memory::recorded(Arc::clone(&ram), page);
    (ram, memory)
}

#[test]
fn pages_of_a_file_leave_the_file_and_count_as_written() {
    use std::os::unix::fs::MetadataExt;
    let fd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = Arc::new(std::fs::File::from(fd));
    file.set_len(8 << 20).unwrap();
    let offset = FileOffset::from_arc(Arc::clone(&file), 0);
    let (_, memory) = filled(MmapRegion::from_file(offset, 8 << 20).unwrap());
    let blocks = || file.metadata().unwrap().blocks() * 512;
    assert_eq!(blocks(), 8 << 20);
    assert_eq!(memory.discard(RAM + PAGE, 3 << 20), 3 << 20);
    assert_eq!(blocks(), 5 << 20);
    let written = memory.take_written().remove(0).pages;
    let count: u32 = written.iter().map(|word| word.count_ones()).sum();
    assert_eq!((count, written[0] & 3), (768, 2));
}

#[test]
fn of_huge_pages_only_whole_ones_go_back() {
    const HUGE: u64 = 2 << 20;
    let (anonymous, protection) = (
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        libc::PROT_READ | libc::PROT_WRITE,
    );
    let builder = MmapRegionBuilder::new(8 << 20)
        .with_mmap_flags(anonymous)
        .with_mmap_prot(protection)
        .with_hugetlbfs(true);
    let region = builder.build().unwrap();
    // Only a mapping of real huge pages is always aligned to them.
    let first =
        (region.as_ptr().addr() as u64).next_multiple_of(HUGE) - region.as_ptr().addr() as u64;
    let (ram, memory) = filled(region);
    let first = RAM + first;
    assert_eq!(memory.discard(first, HUGE - PAGE), 0);
    assert_eq!(memory.discard(first + PAGE, HUGE), 0);
    assert_eq!(memory.discard(first + PAGE, 2 * HUGE), HUGE);
    let byte = |address| ram.read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!(
        (
            byte(first + HUGE - 1),
            byte(first + HUGE),
            byte(first + 2 * HUGE)
        ),
        (1, 0, 1)
    );
}
