//! Attacks by a hostile or broken guest, through the registers and rings of whole devices. After
//! each case the device works or needs a reset, a reset repairs it, and a second device always
//! works.
//!
//! `docs/testing.md` lists every case with its test. Many of them are unit tests beside the code.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use devices::platform::bus::BusDevice;
use guest::block::{Request, SECTOR, WANTED};
use guest::mmio::offset;
use guest::virtio::{feature, status};
use guest::{Block, Queue, Region, Registers, Transport};
use support::{Page, RAM, RAM_LEN, Ram, disk, image, pattern, timeout, wait_for};

const SECTORS: u64 = 64;
const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const BROKEN: u32 = 0x4f;
const LIVE: u32 = 0x0f;

/// A disk whose queue the test writes by hand, a second disk with a correct driver, and buffers.
struct Scene {
    ram: Ram,
    file: File,
    page: Page,
    queue: Queue,
    /// Header at 0, data at 0x1000, a status byte at 0x8000, tables at 0x10000.
    data: Region,
    neighbour: Block<Page>,
}

const DATA: u64 = 0x1000;
const STATUS: u64 = 0x8000;
const TABLE: u64 = 0x1_0000;

fn scene() -> Scene {
    scene_with(WANTED | feature::VERSION_1)
}

fn scene_with(wanted: u64) -> Scene {
    let ram = Ram::new();
    let (file, other) = (image(SECTORS), image(SECTORS));
    let (page, beside) = (disk(&ram, &file, false), disk(&ram, &other, false));
    let neighbour = Block::new(beside.probe(), &mut ram.dma(), WANTED, 16).unwrap();
    let mut dma = ram.dma();
    let mut transport = page.probe();
    transport.negotiate(wanted).unwrap();
    let queue = transport.queue(0, SIZE, &mut dma).unwrap();
    let data = dma.alloc(0x4_0000).unwrap();
    transport.start();
    Scene { ram, file, page, queue, data, neighbour }
}

impl Scene {
    fn at(&self, offset: u64) -> u64 {
        self.data.bus() + offset
    }

    /// Writes descriptor `index` of the table at guest address `table`.
    fn entry(&self, table: u64, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        describe(&self.ram, table, index, buffer, flags, next);
    }

    fn descriptor(&self, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        let table = self.queue.descriptor_area();
        self.entry(table, index, buffer, flags, next);
    }

    /// Descriptors 0 to 2: a read of sector `sector` into the data.
    fn honest_read(&self, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&Request::IN.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.ram.write(self.at(0), &header);
        self.ram.write(self.at(STATUS), &[0xee]);
        self.descriptor(0, (self.at(0), 16), NEXT, 1);
        self.descriptor(1, (self.at(DATA), 512), NEXT | WRITE, 2);
        self.descriptor(2, (self.at(STATUS), 1), WRITE, 0);
    }

    fn available(&self) -> u16 {
        self.word(self.queue.driver_area() + 2)
    }

    fn used(&self) -> u16 {
        self.word(self.queue.device_area() + 2)
    }

    fn word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.ram.read(address, 2).try_into().unwrap())
    }

    /// Makes `heads` available, and kicks.
    fn offer(&self, heads: &[u16]) {
        let mut idx = self.available();
        for head in heads {
            let slot = u64::from(idx % SIZE);
            let at = self.queue.driver_area() + 4 + 2 * slot;
            self.ram.write(at, &head.to_le_bytes());
            idx = idx.wrapping_add(1);
        }
        self.jump(idx);
    }

    /// Sets the available index, and kicks.
    fn jump(&self, idx: u16) {
        let at = self.queue.driver_area() + 2;
        self.ram.write(at, &idx.to_le_bytes());
        self.page.write(offset::QUEUE_NOTIFY, 0);
    }

    fn status(&self) -> u32 {
        self.page.read(offset::STATUS)
    }

    /// Asserts that the device finds the ring invalid, and that a reset repairs it.
    fn breaks(mut self) {
        wait_for("DEVICE_NEEDS_RESET", || self.status() == BROKEN);
        wait_for("the interrupt", || self.page.wire.is_high());
        let pending = self.page.read(offset::INTERRUPT_STATUS);
        assert_ne!(pending & guest::mmio::INTERRUPT_CONFIG, 0);
        // A device that needs a reset ignores kicks.
        let used = self.used();
        self.honest_read(1);
        self.offer(&[0]);
        self.heal();
        assert_eq!(self.used(), used);
    }

    /// Asserts that the device answers `count` chains in total, and still works.
    fn answers(&self, count: u16) {
        wait_for("the answers", || {
            assert_eq!(self.status(), LIVE);
            self.used() == count
        });
    }

    /// Asserts that the second disk works, and that the first works after a reset.
    fn heal(&mut self) {
        check_reads(&mut self.neighbour);
        let mut dma = self.ram.dma();
        let mut block = Block::new(self.page.probe(), &mut dma, WANTED, 16).unwrap();
        check_reads(&mut block);
    }
}

fn describe(ram: &Ram, table: u64, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
    let mut bytes = buffer.0.to_le_bytes().to_vec();
    bytes.extend(buffer.1.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    ram.write(table + 16 * u64::from(index), &bytes);
}

fn check_reads(block: &mut Block<Page>) {
    for sector in 0..8 {
        let mut data = [0xee; SECTOR];
        block.read(sector, &mut data, &mut timeout()).unwrap();
        assert_eq!(data, [pattern(sector); SECTOR]);
    }
}

#[test]
fn a_correct_request_works_in_this_scene() {
    let mut scene = scene();
    scene.honest_read(9);
    scene.offer(&[0]);
    scene.answers(1);
    assert_eq!(scene.ram.read(scene.at(DATA), 512), [9; 512]);
    assert_eq!(scene.ram.read(scene.at(STATUS), 1), [0]);
    scene.heal();
}

#[test]
fn looped_chains_need_a_reset() {
    for next in [0, 1] {
        let scene = scene();
        scene.descriptor(0, (scene.at(0), 16), NEXT, next);
        scene.descriptor(1, (scene.at(0), 16), NEXT, 0);
        scene.offer(&[0]);
        scene.breaks();
    }
}

#[test]
fn indices_outside_the_table_need_a_reset() {
    for head in [SIZE, SIZE + 1, 0x8000, u16::MAX] {
        let scene = scene();
        scene.offer(&[head]);
        scene.breaks();
        let scene = self::scene();
        scene.descriptor(0, (scene.at(0), 16), NEXT, head);
        scene.offer(&[0]);
        scene.breaks();
    }
}

#[test]
fn jumps_of_the_available_index_need_a_reset() {
    for jump in [SIZE + 1, 0x8000, u16::MAX] {
        let scene = scene();
        scene.honest_read(0);
        scene.offer(&[0, 0, 0]);
        scene.answers(3);
        scene.jump(scene.available().wrapping_add(jump));
        scene.breaks();
    }
}

#[test]
fn buffers_that_are_not_ram_need_a_reset() {
    let end = RAM + RAM_LEN as u64;
    let buffers = [
        (0, 512),
        (RAM - 1, 512),
        (end - 511, 512),
        (end, 512),
        (u64::MAX - 511, 512),
        (u64::MAX - 3, 512),
        (RAM, u32::MAX),
        // Register pages: the first device's, and the interrupt controller's.
        (0x1000_1000, 512),
        (0x1000_1100, 0x1000),
        (0x0c20_0004, 4),
    ];
    for buffer in buffers {
        for (index, flags, next) in [(0, 0, 0), (1, NEXT | WRITE, 2)] {
            let scene = scene();
            scene.honest_read(3);
            scene.descriptor(index, buffer, flags, next);
            scene.offer(&[0]);
            scene.breaks();
        }
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_needs_a_reset() {
    let scene = scene();
    scene.honest_read(3);
    scene.descriptor(2, (scene.at(STATUS), 1), 0, 0);
    scene.offer(&[0]);
    scene.breaks();
}

#[test]
fn a_chain_without_header_data_or_status_is_answered() {
    let mut scene = scene();
    scene.honest_read(3);
    // An empty chain; only a header; only a status; header and status in one writable descriptor,
    // then in one readable descriptor.
    scene.descriptor(3, (0, 0), 0, 0);
    scene.descriptor(4, (scene.at(0), 16), 0, 0);
    scene.descriptor(5, (scene.at(STATUS), 1), WRITE, 0);
    scene.descriptor(6, (scene.at(0x100), 17), WRITE, 0);
    scene.descriptor(7, (scene.at(0), 17), 0, 0);
    scene.offer(&[3, 4, 5, 6, 7]);
    scene.answers(5);
    assert_eq!(scene.ram.read(scene.at(STATUS), 1), [1]);
    assert_eq!(scene.ram.read(scene.at(0x110), 1), [1]);
    assert_eq!(scene.ram.read(scene.at(0x100), 16), [0; 16]);
    scene.heal();
}

#[test]
fn invalid_indirect_tables_need_a_reset() {
    type Case = (fn(&Scene) -> (u64, u32), u16, u16);
    let table = |scene: &Scene| (scene.at(TABLE), 16);
    let cases: [Case; 8] = [
        // Indirect within indirect, and together with NEXT.
        (table, INDIRECT, INDIRECT),
        (table, INDIRECT | NEXT, WRITE),
        // Empty, not a multiple of 16, huge, across the end of RAM.
        (|scene| (scene.at(TABLE), 0), INDIRECT, WRITE),
        (|scene| (scene.at(TABLE), 24), INDIRECT, WRITE),
        (|scene| (scene.at(TABLE), u32::MAX - 15), INDIRECT, NEXT),
        (|_| (RAM + RAM_LEN as u64 - 8, 16), INDIRECT, WRITE),
        (|_| (u64::MAX - 15, 32), INDIRECT, WRITE),
        // A table whose only entry points outside the table.
        (table, INDIRECT, NEXT),
    ];
    for (place, flags, entry) in cases {
        let scene = scene();
        // With NEXT, entry 0 points to itself; the last case's table has no entry 1.
        let next = u16::from(flags == INDIRECT && entry == NEXT && place(&scene).1 == 16);
        scene.entry(scene.at(TABLE), 0, (scene.at(DATA), 16), entry, next);
        scene.descriptor(0, place(&scene), flags, 1);
        scene.offer(&[0]);
        scene.breaks();
    }
}

#[test]
fn an_indirect_descriptor_that_was_not_negotiated_needs_a_reset() {
    let scene = scene_with(feature::VERSION_1);
    scene.entry(scene.at(TABLE), 0, (scene.at(DATA), 16), WRITE, 0);
    scene.descriptor(0, (scene.at(TABLE), 16), INDIRECT, 0);
    scene.offer(&[0]);
    scene.breaks();
}

#[test]
fn the_same_head_twice_is_served_twice() {
    let mut scene = scene();
    scene.honest_read(12);
    scene.offer(&[0; SIZE as usize]);
    scene.answers(SIZE);
    assert_eq!(scene.ram.read(scene.at(DATA), 512), [12; 512]);
    scene.heal();
}

#[test]
fn rings_that_overlap_each_other_or_their_buffers_do_no_harm() {
    type Overlap = fn(&Scene) -> (u64, u64);
    let overlaps: [Overlap; 4] = [
        // A read whose data overwrites the descriptors, the available ring or the used ring, or
        // whose status overwrites used.idx.
        |scene| (scene.queue.descriptor_area(), 0),
        |scene| (scene.queue.driver_area(), 0),
        |scene| (scene.queue.device_area(), 0),
        |scene| (scene.at(DATA), scene.queue.device_area() + 2),
    ];
    for overlap in overlaps {
        let mut scene = scene();
        scene.honest_read(200 % SECTORS);
        let (data, status) = overlap(&scene);
        scene.descriptor(1, (data, 512), NEXT | WRITE, 2);
        if status != 0 {
            scene.descriptor(2, (status, 1), WRITE, 0);
        }
        scene.offer(&[0, 0, 0, 0]);
        // Whatever the ring contains now, the second disk works, and the first after a reset.
        scene.heal();
    }
}

/// A descriptor is read once: the checked value is the one that is used, whatever the guest writes
/// meanwhile.
#[test]
fn descriptors_rewritten_while_they_are_read_do_no_harm() {
    let mut scene = scene();
    scene.honest_read(33);
    let rewriting = AtomicBool::new(true);
    let (ram, table, data) = (&scene.ram, scene.queue.descriptor_area(), scene.at(DATA));
    thread::scope(|scope| {
        scope.spawn(|| {
            let lengths = [512, 1024, 4096, 0];
            for len in lengths.into_iter().cycle() {
                if !rewriting.load(Ordering::Relaxed) {
                    break;
                }
                let rewrite = |buffer, next| describe(ram, table, 1, buffer, NEXT | WRITE, next);
                rewrite((data, len), 2);
                rewrite((u64::MAX - 100, 512), 2);
                rewrite((data, len), 1);
            }
        });
        for _ in 0..2000 {
            if scene.status() != LIVE || scene.available().wrapping_sub(scene.used()) >= SIZE {
                break;
            }
            scene.offer(&[0]);
        }
        rewriting.store(false, Ordering::Relaxed);
    });
    scene.heal();
    assert_eq!(scene.ram.read(scene.at(DATA + 0x1000), 0x1000), [0; 0x1000]);
    assert_eq!(scene.file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn queue_registers_rewritten_while_live_change_nothing() {
    let mut scene = scene();
    for value in [0, 1, 3, 0x8000, u32::MAX] {
        scene.page.write(offset::QUEUE_SEL, 0);
        for register in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
            scene.page.write(register, value);
        }
        // QueueReady has one bit; writing it again does not activate the queue again.
        scene.page.write(offset::QUEUE_READY, u32::MAX);
        scene.page.write(offset::DRIVER_FEATURES, value);
    }
    for round in 1..=100 {
        scene.honest_read(u64::from(round) % SECTORS);
        scene.offer(&[0]);
        scene.answers(round);
    }
    scene.heal();
}

#[test]
fn invalid_queue_set_ups_need_a_reset() {
    let end = RAM + RAM_LEN as u64;
    let size = |value| (offset::QUEUE_SIZE, value);
    let addresses = [RAM + 1, end - 2, end, 0, u64::MAX - 15, 0x1000_1000];
    let sizes = [0, 3, 0x101, 0x200, 0xffff, 0x1_0010, u32::MAX].map(size);
    let low = |address: u64| u32::try_from(address & 0xffff_ffff).unwrap();
    let high = |address: u64| u32::try_from(address >> 32).unwrap();
    let areas = [
        offset::QUEUE_DESC,
        offset::QUEUE_DRIVER,
        offset::QUEUE_DEVICE,
    ];
    let areas = areas.into_iter().flat_map(|area| {
        addresses.map(|address| vec![(area, low(address)), (area + 4, high(address))])
    });
    for case in sizes.map(|size| vec![size]).into_iter().chain(areas) {
        let mut scene = scene();
        let mut transport = scene.page.probe();
        transport.negotiate(WANTED).unwrap();
        transport.queue(0, SIZE, &mut scene.ram.dma()).unwrap();
        scene.page.write(offset::QUEUE_READY, 0);
        for (register, value) in &case {
            scene.page.write(*register, *value);
        }
        scene.page.write(offset::QUEUE_READY, 1);
        transport.start();
        assert_eq!(scene.status(), BROKEN, "{case:x?}");
        scene.page.write(offset::QUEUE_NOTIFY, 0);
        scene.heal();
    }
}

/// Accesses every register with every width and alignment, in every state of the device.
#[test]
fn odd_accesses_in_every_state_leave_the_device_usable() {
    for phase in 0..=4 {
        let mut scene = scene();
        let mut transport = scene.page.probe();
        if phase < 4 {
            transport.reset().unwrap();
            for status in [1, 3, 0xb].into_iter().take(phase) {
                scene.page.write(offset::STATUS, status);
            }
        }
        for place in 0..0x200 {
            for width in [1, 2, 3, 4, 5, 8, 16] {
                for byte in [0x00, 0x01, 0xff] {
                    // Status and QueueNotify have their own tests: a plain store to them is valid.
                    scene.page.mmio.read(place, &mut vec![0; width]);
                    if width != 4 || place % 4 != 0 {
                        scene.page.mmio.write(place, &vec![byte; width]);
                    }
                }
            }
        }
        let alive = if phase < 4 { [0, 1, 3, 3][phase] } else { LIVE };
        assert_eq!(scene.status(), alive, "phase {phase}");
        scene.heal();
    }
}

#[test]
fn a_driver_that_skips_steps_is_not_served() {
    let mut scene = scene();
    let page = scene.page.clone();
    let write = |value| {
        page.write(offset::STATUS, value);
        page.read(offset::STATUS)
    };
    for (written, seen) in [(0, 0), (LIVE & !3, 0), (1, 1), (5, 1), (7, 3), (LIVE, 3)] {
        assert_eq!(write(written), seen, "wrote {written:#x}");
        // A kick before DRIVER_OK has no effect.
        page.write(offset::QUEUE_NOTIFY, 0);
    }
    assert_eq!(scene.used(), 0);
    assert!(Transport::probe(page.clone()).unwrap().is_some());
    assert_eq!(write(status::FAILED | 3) & status::FAILED, status::FAILED);
    scene.heal();
}

#[test]
fn kicks_of_absent_queues_and_floods_of_kicks_affect_no_other_device() {
    let mut scene = scene();
    for queue in [1, 2, 0xff, 0xffff, u32::MAX] {
        scene.page.write(offset::QUEUE_NOTIFY, queue);
    }
    for _ in 0..100_000 {
        scene.page.write(offset::QUEUE_NOTIFY, 0);
    }
    scene.honest_read(5);
    scene.offer(&[0]);
    scene.answers(1);
    scene.heal();
}
