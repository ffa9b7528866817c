//! The guest's block driver against the block device, in one process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "support/disks.rs"]
mod disks;
mod support;

use disks::{OWN, RINGS, SECTORS, check_read, machine, on_file, open, reset_in_flight};
use guest::block::{Done, Frame, Request, SECTOR, Status, WANTED};
use guest::mmio::{INTERRUPT_CONFIG, INTERRUPT_USED, acknowledge};
use guest::virtio::{feature, status};
use guest::{Block, Error, Layout, Registers, Segment};
use support::{Ram, disk, image, pattern, timeout, wait_for};

#[test]
fn written_data_is_in_the_file_and_reads_back() {
    for ring in RINGS {
        let (ram, file, page) = machine(false);
        let mut block = open(&ram, &page, OWN | ring);
        assert_eq!(
            block.transport().features() & !OWN,
            ring | feature::VERSION_1
        );
        assert_eq!((block.capacity(), block.read_only()), (SECTORS, false));
        check_read(&mut block, 0);
        check_read(&mut block, SECTORS - 1);

        // More than the driver's bounce buffer of 128 sectors.
        let data: Vec<u8> = (0..200).flat_map(|n| [0xff - n; SECTOR]).collect();
        block.write(7, &data, &mut timeout()).unwrap();
        block.flush(&mut timeout()).unwrap();
        assert_eq!(on_file(&file, 6), [6; SECTOR]);
        assert_eq!(on_file(&file, 7), [0xff; SECTOR]);
        assert_eq!(on_file(&file, 206), [0xff - 199; SECTOR]);
        assert_eq!(on_file(&file, 207), [207; SECTOR]);
        let mut back = vec![0; data.len()];
        block.read(7, &mut back, &mut timeout()).unwrap();
        assert_eq!(back, data);

        let id = block.id(&mut timeout()).unwrap();
        assert_eq!(&id, b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        block.transport().alive().unwrap();
    }
}

#[test]
fn a_read_only_disk_offers_ro_and_refuses_writes() {
    let (ram, file, page) = machine(true);
    let mut block = open(&ram, &page, WANTED);
    assert!(block.read_only());
    let refused = block.write(3, &[0xaa; SECTOR], &mut timeout());
    assert_eq!(refused, Err(Error::Request(Status::IoErr)));
    assert_eq!(on_file(&file, 3), [3; SECTOR]);
    check_read(&mut block, 3);
}

#[test]
fn invalid_requests_get_an_error_status_and_the_device_continues() {
    let (ram, file, page) = machine(false);
    let mut dma = ram.dma();
    let data = dma.alloc(2 * SECTOR).unwrap();
    let mut block = Block::new(page.probe(), &mut dma, WANTED, 16).unwrap();
    let (read, write) = (Segment::writable(&data), Segment::readable(&data));
    let cases = [
        (Request::read(SECTORS - 1), read, Status::IoErr),
        (Request::write(SECTORS - 1), write, Status::IoErr),
        (Request::read(u64::MAX), read, Status::IoErr),
        (Request::write(u64::MAX / 512), write, Status::IoErr),
        (Request { kind: 99, sector: 0 }, read, Status::Unsupp),
        (Request { kind: u32::MAX, sector: 0 }, write, Status::Unsupp),
    ];
    for (request, segment, status) in cases {
        let done = block.request(request, &[segment], &mut timeout());
        assert_eq!(done, Ok(Done { status, written: 1 }), "{request:?}");
        check_read(&mut block, 5);
    }
    assert_eq!(on_file(&file, SECTORS - 1), [pattern(SECTORS - 1); SECTOR]);
}

/// § 2.7.4.3: the device makes no assumption about the framing of a request.
#[test]
fn a_request_may_be_cut_anywhere() {
    const READ: [&[usize]; 5] = [
        &[16, 513],
        &[16, 512, 1],
        &[1, 15, 100, 412, 1],
        &[8, 8, 1, 511, 1],
        // The last data byte shares a segment with the status.
        &[4, 4, 4, 4, 511, 2],
    ];
    const WRITE: [&[usize]; 4] = [&[528, 1], &[16, 512, 1], &[17, 511, 1], &[3, 13, 1, 511, 1]];
    for ring in RINGS {
        let (ram, file, page) = machine(false);
        let mut dma = ram.dma();
        let memory = dma.alloc(16 + SECTOR + 1).unwrap();
        let mut block = Block::new(page.probe(), &mut dma, OWN | ring, 64).unwrap();
        let mut layouts = vec![Layout::Direct];
        if ring & feature::INDIRECT_DESC != 0 {
            layouts.extend([0, 1, 2].map(|direct| Layout::Indirect { direct }));
        }
        for layout in layouts {
            let mut run = |request, readable, cuts| {
                let memory = &memory;
                let frame = Frame { memory, readable, cuts, layout };
                let token = match block.submit_framed(request, &frame) {
                    // All segments are direct, so there is none left for a table.
                    Err(Error::Chain { .. }) if layout != Layout::Direct => return None,
                    token => token.unwrap(),
                };
                Some(block.finish(token, &mut timeout()).unwrap())
            };
            for cuts in READ {
                memory.fill(0xee);
                let Some(done) = run(Request::read(9), 16, cuts) else {
                    continue;
                };
                assert_eq!((done.status, done.written), (Status::Ok, 513), "{cuts:?}");
                let mut data = [0; SECTOR];
                memory.read(16, &mut data);
                assert_eq!(data, [9; SECTOR], "{cuts:?} {layout:?}");
            }
            for (mark, cuts) in (0xa0..).zip(WRITE) {
                memory.fill(mark);
                let Some(done) = run(Request::write(11), 528, cuts) else {
                    continue;
                };
                assert_eq!((done.status, done.written), (Status::Ok, 1), "{cuts:?}");
                assert_eq!(on_file(&file, 11), [mark; SECTOR], "{cuts:?} {layout:?}");
            }
        }
    }
}

#[test]
fn many_requests_in_flight_each_get_their_own_answer() {
    for ring in RINGS {
        let (ram, _file, page) = machine(false);
        let mut dma = ram.dma();
        let data = dma.alloc(40 * SECTOR).unwrap();
        let mut block = Block::new(page.probe(), &mut dma, OWN | ring, 256).unwrap();
        for round in 0..4 {
            data.fill(0xee);
            let place = |n: usize| data.slice(n * SECTOR..(n + 1) * SECTOR);
            let tokens: Vec<_> = (0..40)
                .map(|n| {
                    let request = Request::read(round * 40 + n as u64);
                    block
                        .submit(request, &[Segment::writable(&place(n))])
                        .unwrap()
                })
                .collect();
            assert_eq!(block.queue().in_flight(), 40);
            // Waits in another order than they were submitted.
            for (n, token) in tokens.into_iter().enumerate().rev() {
                let done = block.finish(token, &mut timeout()).unwrap();
                assert_eq!((done.status, done.written), (Status::Ok, 513));
                let mut seen = [0; SECTOR];
                place(n).read(0, &mut seen);
                assert_eq!(seen, [pattern(round * 40 + n as u64); SECTOR]);
            }
        }
    }
}

/// Both ring indices run through all 65 536 values, with each way to suppress notifications.
#[test]
fn the_ring_indices_wrap() {
    for ring in RINGS {
        let (ram, _file, page) = machine(false);
        let mut dma = ram.dma();
        let data = dma.alloc(64 * 32).unwrap();
        let mut block = Block::new(page.probe(), &mut dma, OWN | ring, 128).unwrap();
        let mut requests = 0_u32;
        while requests < 0x1_0000 + 500 {
            let tokens: Vec<_> = (0..60)
                .map_while(|n| {
                    let place = data.slice(n * 32..n * 32 + 20);
                    block
                        .submit(Request::id(), &[Segment::writable(&place)])
                        .ok()
                })
                .collect();
            for token in tokens {
                let done = block.finish(token, &mut timeout()).unwrap();
                assert_eq!((done.status, done.written), (Status::Ok, 21));
                requests += 1;
            }
        }
        check_read(&mut block, 1);
    }
}

#[test]
fn each_wait_ends_with_an_interrupt_and_a_request_has_at_most_one() {
    for ring in RINGS {
        let (ram, _file, page) = machine(false);
        let mut dma = ram.dma();
        let data = dma.alloc(8 * SECTOR).unwrap();
        let mut block = Block::new(page.probe(), &mut dma, OWN | ring, 64).unwrap();
        for batch in 1..=8_u32 {
            let tokens: Vec<_> = (0..8)
                .map(|n| {
                    let place = data.slice(n * SECTOR..(n + 1) * SECTOR);
                    let data = [Segment::writable(&place)];
                    block.submit(Request::read(n as u64), &data).unwrap()
                })
                .collect();
            block.kick();
            wait_for("the interrupt", || page.wire.is_high());
            // On a busy machine a batch may take so long that it is published in parts.
            for token in tokens {
                wait_for("a request", || {
                    let done = block.poll(&token).unwrap();
                    done.inspect(|done| assert_eq!(done.status, Status::Ok))
                        .is_some()
                });
            }
            let edges = page.wire.edges();
            assert!(
                (1..=8 * batch).contains(&edges),
                "features {ring:#x}: {edges}"
            );
            assert_eq!(acknowledge(&page), INTERRUPT_USED);
        }
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    for ring in RINGS {
        let (ram, _file, page) = machine(false);
        let mut block = open(&ram, &page, OWN | ring);
        block.set_interrupts(false);
        (0..100).for_each(|sector| check_read(&mut block, sector));
        // A reset waits for the device's thread, so all its interrupts have come.
        let mut transport = block.into_transport();
        transport.reset().unwrap();
        assert_eq!(page.wire.edges(), 0, "features {ring:#x}");
    }
}

#[test]
fn after_a_reset_in_flight_the_memory_is_untouched_and_a_new_driver_is_served() {
    for ring in RINGS {
        let (ram, _file, page) = machine(false);
        for _ in 0..6 {
            reset_in_flight(&ram, page.probe(), ring);
        }
    }
}

#[test]
fn a_broken_disk_needs_a_reset_while_the_other_one_works() {
    let ram = Ram::new();
    let (file, other_file) = (image(SECTORS), image(SECTORS));
    let (page, other_page) = (disk(&ram, &file, false), disk(&ram, &other_file, false));
    let mut broken = open(&ram, &page, WANTED);
    let mut other = open(&ram, &other_page, WANTED);
    check_read(&mut broken, 1);
    wait_for("its interrupt", || page.wire.is_high());
    acknowledge(&page);

    let nowhere = Segment { address: 0x1000, len: 512, writable: true };
    let token = broken.submit(Request::read(0), &[nowhere]).unwrap();
    let mut more = timeout();
    let mut until_it_gives_up =
        || page.probe().status() & status::DEVICE_NEEDS_RESET == 0 && more();
    let error = broken.finish(token, &mut until_it_gives_up).unwrap_err();
    assert_eq!(error, Error::NeedsReset(0x4f));
    wait_for("the configuration interrupt", || page.wire.is_high());
    assert_eq!(acknowledge(&page), INTERRUPT_CONFIG);

    (0..100).for_each(|sector| check_read(&mut other, sector));
    other.transport().alive().unwrap();

    let mut again = open(&ram, &page, WANTED);
    check_read(&mut again, 1);
    check_read(&mut other, 2);
}

#[test]
fn a_driver_that_cannot_flush_writes_through() {
    let (ram, file, page) = machine(false);
    let mut block = open(&ram, &page, feature::VERSION_1);
    assert_eq!(block.transport().features(), feature::VERSION_1);
    block.write(2, &[0xcc; SECTOR], &mut timeout()).unwrap();
    assert_eq!(on_file(&file, 2), [0xcc; SECTOR]);
    // There is nothing to flush, so the driver sends no request.
    block.flush(&mut timeout()).unwrap();
}

#[test]
fn a_driver_for_another_device_is_refused() {
    let (ram, _file, page) = machine(false);
    let error = guest::Console::new(page.probe(), &mut ram.dma(), 0).err();
    let (found, wanted) = (2, 3);
    assert_eq!(error, Some(Error::DeviceId { found, wanted }));
}

#[test]
fn features_that_were_not_offered_are_refused_and_a_second_attempt_works() {
    let (ram, _file, page) = machine(false);
    let mut transport = page.probe();
    let offered = transport.negotiate(WANTED).unwrap();
    for wrong in [offered | 1 << 12, offered & !feature::VERSION_1] {
        transport.reset().unwrap();
        // ACKNOWLEDGE, then DRIVER: the status that `accept` expects.
        page.write(0x70, 1);
        page.write(0x70, 3);
        assert_eq!(transport.accept(wrong), Err(Error::FeaturesRefused(wrong)));
        check_read(&mut open(&ram, &page, WANTED), 4);
    }
}
