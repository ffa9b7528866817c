//! The guest's block driver against the block device over vhost-user, with a front end in between.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "support/disks.rs"]
mod disks;
#[path = "support/front_end.rs"]
mod front_end;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use devices::rng::Rng;
use devices::virtio::VirtioDevice;
use disks::{OWN, RINGS, SECTORS, check_read, check_use, reset_in_flight};
use front_end::{FrontEnd, PROTOCOL_FEATURES, Service, USER, region};
use guest::block::{Request, SECTOR, WANTED};
use guest::mmio::acknowledge;
use guest::{Block, Dma, Segment};
use support::{RAM, RAM_LEN, Ram, block, image, timeout, wait_for};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

const BLOCK: u32 = 2;

/// A disk of 256 sectors that is served, and RAM for its driver.
fn machine() -> (Ram, File, Service) {
    let file = image(SECTORS);
    let service = Service::new(block(&file, false));
    (Ram::new(), file, service)
}

fn open(front: &FrontEnd, dma: &mut Dma, wanted: u64) -> Block<FrontEnd> {
    Block::new(front.probe(), dma, wanted, 64).unwrap()
}

#[test]
fn a_driver_behind_a_front_end_reads_and_writes() {
    for ring in RINGS {
        let (ram, file, service) = machine();
        let front = service.front_end(&ram, BLOCK);
        let mut block = open(&front, &mut ram.dma(), OWN | ring);
        check_use(&mut block, &file, ring);
        let id = block.id(&mut timeout()).unwrap();
        assert_eq!(&id, b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        front.hang_up().unwrap();
    }
}

#[test]
fn each_batch_is_signalled_and_no_call_is_lost() {
    for ring in RINGS {
        let (ram, _file, service) = machine();
        let front = service.front_end(&ram, BLOCK);
        let mut dma = ram.dma();
        let data = dma.alloc(8 * SECTOR).unwrap();
        let mut block = Block::new(front.probe(), &mut dma, OWN | ring, 64).unwrap();
        for _ in 0..50 {
            let mut tokens: Vec<_> = (0..8)
                .map(|n| {
                    let place = data.slice(n * SECTOR..(n + 1) * SECTOR);
                    let data = [Segment::writable(&place)];
                    block.submit(Request::read(n as u64), &data).unwrap()
                })
                .collect();
            block.kick();
            // One call for all of them, or several if the host is slow. A call comes after the used
            // index, so waiting for it must be enough.
            while !tokens.is_empty() {
                wait_for("a call", || acknowledge(&front) != 0);
                tokens.retain(|token| block.poll(token).unwrap().is_none());
            }
        }
    }
}

#[test]
fn after_a_reset_a_new_driver_is_served_and_the_old_rings_are_untouched() {
    for ring in RINGS {
        let (ram, _file, service) = machine();
        let front = service.front_end(&ram, BLOCK);
        for _ in 0..5 {
            reset_in_flight(&ram, front.probe(), ring);
        }
    }
}

/// A front end does this to pause a guest, and to move it to another process.
#[test]
fn a_stopped_ring_continues_where_it_stopped() {
    for ring in RINGS {
        let (ram, _file, service) = machine();
        let front = service.front_end(&ram, BLOCK);
        let mut block = open(&front, &mut ram.dma(), OWN | ring);
        let mut requests = 0;
        for round in 0..20 {
            for sector in 0..round {
                check_read(&mut block, sector);
                requests += 1;
            }
            let base = front.state().client.get_vring_base(0).unwrap();
            assert_eq!(base, requests, "features {ring:#x}");
            let used = block.queue().device_area();
            assert_eq!(ram.read(used + 2, 2), (requests as u16).to_le_bytes());
            front.state().start_ring(0, base as u16);
        }
    }
}

#[test]
fn chains_offered_to_a_stopped_ring_wait() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(front.probe(), &mut dma, WANTED, 64).unwrap();
    check_read(&mut block, 1);
    let base = front.state().client.get_vring_base(0).unwrap();
    let token = block.submit(Request::read(2), &[Segment::writable(&data)]);
    let token = token.unwrap();
    block.kick();
    // The reply to a second stop comes after anything that runs has ended.
    assert_eq!(front.state().client.get_vring_base(0).unwrap(), base);
    assert!(block.poll(&token).unwrap().is_none());
    front.state().start_ring(0, base as u16);
    assert!(block.finish(token, &mut timeout()).is_ok());
}

#[test]
fn a_disabled_ring_is_not_served_until_it_is_enabled() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(front.probe(), &mut dma, WANTED, 64).unwrap();
    check_read(&mut block, 1);
    let enable = |enable| front.state().client.set_vring_enable(0, enable).unwrap();
    enable(false);
    let token = block.submit(Request::read(2), &[Segment::writable(&data)]);
    let token = token.unwrap();
    block.kick();
    enable(false);
    assert!(block.poll(&token).unwrap().is_none());
    enable(true);
    assert!(block.finish(token, &mut timeout()).is_ok());
}

#[test]
fn a_front_end_without_protocol_features_has_its_rings_enabled() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let mut block = open(&front, &mut ram.dma(), WANTED);
    check_read(&mut block, 1);
    let state = front.state();
    let accepted = block.transport().features();
    state.client.clone().set_vring_enable(0, false).unwrap();
    state.client.set_features(accepted).unwrap();
    drop(state);
    check_read(&mut block, 2);
    let with = accepted | PROTOCOL_FEATURES;
    front.state().client.set_features(with).unwrap();
}

#[test]
fn one_front_end_after_another_is_served() {
    let (ram, file, service) = machine();
    for round in 0..10_u8 {
        let front = service.front_end(&ram, BLOCK);
        let mut block = open(&front, &mut ram.dma(), WANTED);
        check_read(&mut block, 9);
        let data = [round; SECTOR];
        block.write(3, &data, &mut timeout()).unwrap();
        // Some of them disconnect with requests in flight.
        let token = block.submit(Request::write(4), &[]);
        drop(token);
        block.kick();
        front.hang_up().unwrap();
        let mut on_file = [0; SECTOR];
        file.read_exact_at(&mut on_file, 3 * 512).unwrap();
        assert_eq!(on_file, data);
    }
}

/// A restarted back end does not know the available index; the front end takes it from the used
/// index, as QEMU does.
#[test]
fn a_new_back_end_continues_in_the_rings_of_a_running_driver() {
    let (ram, file, service) = machine();
    let first = service.front_end(&ram, BLOCK);
    let mut dma = ram.dma();
    let data = dma.alloc(SECTOR).unwrap();
    let mut block = Block::new(first.probe(), &mut dma, WANTED, 64).unwrap();
    (0..100).for_each(|sector| check_read(&mut block, sector));
    first.hang_up().unwrap();

    let again = Service::new(support::block(&file, false));
    let second = again.front_end(&ram, BLOCK);
    let used = ram.read(block.queue().device_area() + 2, 2);
    first.adopt(&second, u16::from_le_bytes([used[0], used[1]]));
    let token = block.submit(Request::read(5), &[Segment::writable(&data)]);
    let token = token.unwrap();
    block.kick();
    assert!(block.finish(token, &mut timeout()).is_ok());
    check_read(&mut block, 100);
}

#[test]
fn memory_regions_can_be_added_and_removed() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let mut block = open(&front, &mut ram.dma(), WANTED);
    let other = VhostUserMemoryRegionInfo {
        guest_phys_addr: RAM + RAM_LEN as u64,
        userspace_addr: USER + RAM_LEN as u64,
        ..region(&ram)
    };
    let slots = front.state().client.get_max_mem_slots().unwrap();
    assert_eq!(slots, 32);
    for sector in 0..10 {
        check_read(&mut block, sector);
        front.state().client.add_mem_region(&other).unwrap();
        check_read(&mut block, 100 + sector);
        front.state().client.remove_mem_region(&other).unwrap();
    }
    // Without any memory no ring runs until it is added again.
    front
        .state()
        .client
        .remove_mem_region(&region(&ram))
        .unwrap();
    front.state().client.add_mem_region(&region(&ram)).unwrap();
    check_read(&mut block, 11);
}

#[test]
fn a_device_that_is_reset_by_message_starts_from_its_initial_state() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    for _ in 0..3 {
        let mut block = open(&front, &mut ram.dma(), WANTED);
        check_read(&mut block, 1);
        front.state().client.reset_device().unwrap();
    }
}

#[test]
fn the_configuration_is_the_devices_and_reads_as_zero_past_its_end() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let read = |offset: u32, len: usize| {
        let (flags, zeroes) = (VhostUserConfigFlags::empty(), vec![0; len]);
        let state = &mut front.state();
        let read = state.client.get_config(offset, len as u32, flags, &zeroes);
        read.unwrap().1
    };
    assert_eq!(read(0, 8), SECTORS.to_le_bytes());
    assert_eq!(read(1, 2), [1, 0]);
    assert_eq!(read(0xff0, 16), [0; 16]);
    // A field that the driver may not write.
    let flags = VhostUserConfigFlags::WRITABLE;
    front.state().client.set_config(0, flags, &[9; 8]).unwrap();
    assert_eq!(read(0, 8), SECTORS.to_le_bytes());
}

#[test]
fn an_invalid_ring_signals_its_error_eventfd_and_a_reset_repairs_it() {
    let (ram, _file, service) = machine();
    let front = service.front_end(&ram, BLOCK);
    let mut block = open(&front, &mut ram.dma(), WANTED);
    check_read(&mut block, 1);
    assert!(front.state().rings[0].error.read().is_err());
    let nowhere = Segment { address: 0x1000, len: 512, writable: true };
    drop(block.submit(Request::read(0), &[nowhere]));
    block.kick();
    wait_for("the error", || front.state().rings[0].error.read().is_ok());
    let mut again = open(&front, &mut ram.dma(), WANTED);
    check_read(&mut again, 2);
}

/// The front end chooses the ring's size: QEMU's virtio-mmio offers 1024 descriptors for any
/// device.
#[test]
fn a_ring_may_be_larger_than_the_devices_maximum() {
    let ram = Ram::new();
    let service = Service::new(Rng::default());
    let front = service.front_end(&ram, 4);
    let mut transport = front.probe();
    transport.negotiate(0).unwrap();
    let mut dma = ram.dma();
    let data = dma.alloc(64).unwrap();
    let mut queue = transport.queue(0, 256, &mut dma).unwrap();
    assert!(queue.size() > Rng::default().queues()[0]);
    transport.start();
    queue.add(&[Segment::writable(&data)]).unwrap();
    let _ = queue.publish();
    transport.notify(0);
    wait_for("random bytes", || queue.pop().unwrap().is_some());
    let mut seen = [0; 64];
    data.read(0, &mut seen);
    assert_ne!(seen, [0; 64]);
}
