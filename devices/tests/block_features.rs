//! A disk's optional features, with the guest's driver.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "support/disks.rs"]
mod disks;
mod support;

use devices::platform::bus::BusDevice;
use disks::{SECTORS, check_read, machine, on_file, open};
use guest::block::{SECTOR, Status, WANTED, features};
use guest::mmio::{INTERRUPT_CONFIG, acknowledge};
use guest::virtio::feature;
use guest::{Error, Registers, Segment};
use support::{Page, Ram, image, pattern, timeout, wait_for};

#[test]
fn zeroes_and_discards_reach_the_file() {
    for ring in [feature::INDIRECT_DESC, 0] {
        let (ram, file, page) = machine(false);
        let mut block = open(&ram, &page, WANTED & !ring);
        for (sector, unmap) in [(10, false), (20, true)] {
            block
                .write_zeroes(sector, 3, unmap, &mut timeout())
                .unwrap();
            let zeroed = sector..sector + 3;
            for sector in sector - 1..sector + 4 {
                let expected = match zeroed.contains(&sector) {
                    true => 0,
                    false => pattern(sector),
                };
                let mut data = [0xee; SECTOR];
                block.read(sector, &mut data, &mut timeout()).unwrap();
                assert_eq!(data, [expected; SECTOR], "sector {sector}");
                assert_eq!(on_file(&file, sector), data);
            }
        }
        block.discard(100, 10, &mut timeout()).unwrap();
        check_read(&mut block, 99);
        check_read(&mut block, 110);
        let beyond = block.discard(SECTORS, 1, &mut timeout());
        assert_eq!(beyond, Err(Error::Request(Status::IoErr)));
    }
}

#[test]
fn a_driver_without_discard_cannot_discard() {
    let (ram, file, page) = machine(false);
    let mut block = open(&ram, &page, feature::VERSION_1);
    let unsupported = Err(Error::Request(Status::Unsupp));
    assert_eq!(block.discard(3, 1, &mut timeout()), unsupported);
    let zeroes = block.write_zeroes(3, 1, false, &mut timeout());
    assert_eq!(zeroes, unsupported);
    assert_eq!(on_file(&file, 3), [3; SECTOR]);
}

/// Offset of `writeback` in the registers (§ 4.2.2, § 5.2.4).
const WRITEBACK: u64 = 0x100 + 32;

/// § 5.2.5.2: the cache mode is valid from FEATURES_OK on.
#[test]
fn the_cache_mode_follows_from_the_features_before_driver_ok() {
    let (_ram, _file, page) = machine(false);
    let mut transport = page.probe();
    for (own, expected) in [
        (features::FLUSH | features::CONFIG_WCE, 1),
        (features::CONFIG_WCE, 0),
    ] {
        transport.negotiate(feature::VERSION_1 | own).unwrap();
        assert_eq!(page.read_u8(0x100 + 32), expected);
        page.mmio.write(WRITEBACK, &[1 - expected]);
        assert_eq!(page.read_u8(0x100 + 32), 1 - expected);
        transport.reset().unwrap();
        assert_eq!(page.read_u8(0x100 + 32), 1);
    }
}

#[test]
fn a_driver_that_turns_the_cache_off_writes_through() {
    let (ram, file, page) = machine(false);
    let wanted = WANTED | features::CONFIG_WCE;
    let mut block = open(&ram, &page, wanted);
    page.mmio.write(WRITEBACK, &[0]);
    block.write(2, &[0xcc; SECTOR], &mut timeout()).unwrap();
    assert_eq!(on_file(&file, 2), [0xcc; SECTOR]);
}

#[test]
fn every_enabled_queue_of_a_disk_is_served_and_no_other() {
    let ram = Ram::new();
    let file = image(SECTORS);
    let options = devices::block::Options { queues: 4, ..Default::default() };
    let device = devices::block::Block::with(file, SECTORS * 512, &options);
    let page = Page::new(&ram, device);
    let mut dma = ram.dma();
    let mut transport = page.probe();
    transport.negotiate(WANTED | features::MQ).unwrap();
    assert_ne!(transport.features() & features::MQ, 0);
    assert_eq!(page.read_u16(0x100 + 34), 4);
    let mut queues: Vec<_> = [0, 1, 3]
        .map(|index| transport.queue(index, 16, &mut dma).unwrap())
        .into();
    let memory = dma.alloc(3 * 1024).unwrap();
    transport.start();
    for (queue, sector) in queues.iter_mut().zip(5_u64..) {
        let at = usize::try_from(sector - 5).unwrap() * 1024;
        let (header, data) = (at..at + 16, at + 16..at + 16 + SECTOR + 1);
        let (header, data) = (memory.slice(header), memory.slice(data));
        header.write(0, &[0; 8]);
        header.write(8, &sector.to_le_bytes());
        queue
            .add(&[Segment::readable(&header), Segment::writable(&data)])
            .unwrap();
        assert!(queue.publish());
        transport.notify(queue.index());
        wait_for("the answer", || queue.pop().unwrap().is_some());
        let mut seen = [0xee; SECTOR + 1];
        data.read(0, &mut seen);
        assert_eq!(seen[..SECTOR], [pattern(sector); SECTOR]);
        assert_eq!(seen[SECTOR], 0);
    }
    // The one that was not set up, and the one after the last.
    transport.notify(2);
    transport.notify(4);
    transport.alive().unwrap();
}

#[test]
fn a_disk_that_grows_and_shrinks_notifies_its_driver() {
    let ram = Ram::new();
    let file = image(SECTORS);
    let device = devices::block::Block::new(file.try_clone().unwrap(), SECTORS * 512, false, "");
    let size = device.shared_config();
    let page = Page::new(&ram, device);
    let mut block = open(&ram, &page, WANTED);
    let generation = page.read(0xfc);
    for sectors in [SECTORS + 8, 16] {
        file.set_len(sectors * 512).unwrap();
        assert!(size.resize(sectors * 512));
        page.mmio.config_changed();
        wait_for("the configuration interrupt", || page.wire.is_high());
        assert_eq!(acknowledge(&page) & INTERRUPT_CONFIG, INTERRUPT_CONFIG);
        assert_ne!(page.read(0xfc), generation);
        assert_eq!(u64::from(page.read(0x100)), sectors);
        let mut data = [0xee; SECTOR];
        block.read(sectors - 1, &mut data, &mut timeout()).unwrap();
        let beyond = block.read(sectors, &mut data, &mut timeout());
        assert_eq!(beyond, Err(Error::Request(Status::IoErr)));
        // The interrupts of the requests.
        acknowledge(&page);
    }
}
