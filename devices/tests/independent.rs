//! Independent drivers, those of the crate `virtio-drivers`, against the devices, in one process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/foreign.rs"]
#[allow(unsafe_code)]
#[allow(clippy::expect_used, reason = "tests")]
mod foreign;
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::thread;

use foreign::{Bounce, POOL, Port};
use guest::virtio::feature;
use support::{TIMEOUT, console, disk, image, pattern, wait_for};
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::InterruptStatus;

/// Masks that hide neither, one or both of the ring features.
const MASKS: [u64; 4] = [
    u64::MAX,
    !feature::INDIRECT_DESC,
    !feature::EVENT_IDX,
    !(feature::INDIRECT_DESC | feature::EVENT_IDX),
];

/// These drivers spin without a deadline, so each test runs in a thread with a timeout.
fn within_patience(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    // Disconnected: it panicked, and `join` reports that.
    let timed_out =
        finished.recv_timeout(TIMEOUT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(
        !timed_out,
        "the driver still waits for its device after {TIMEOUT:?}"
    );
    thread.join().unwrap();
}

#[test]
fn the_block_driver_reads_writes_flushes_and_identifies() {
    within_patience(|| {
        for mask in MASKS {
            let file = image(64);
            let page = disk(&POOL.ram, &file, false);
            let wire = page.wire.clone();
            let mut driver = VirtIOBlk::<Bounce, _>::new(Port { page, mask }).unwrap();
            assert_eq!((driver.capacity(), driver.readonly()), (64, false));
            let mut data = [0; 3 * SECTOR_SIZE];
            driver.read_blocks(7, &mut data).unwrap();
            let expected = [7, 8, 9].map(|n| [pattern(n); SECTOR_SIZE]).concat();
            assert_eq!(data.as_slice(), expected);

            driver.write_blocks(62, &[0xab; 2 * SECTOR_SIZE]).unwrap();
            driver.flush().unwrap();
            let mut written = [0; 3 * SECTOR_SIZE];
            file.read_exact_at(&mut written, 61 * 512).unwrap();
            assert_eq!(written[..512], [61; 512]);
            assert_eq!(written[512..], [0xab; 1024]);

            let past_the_end = driver.write_blocks(63, &[0; 2 * SECTOR_SIZE]);
            assert_eq!(past_the_end, Err(Error::IoError));
            assert_eq!(file.metadata().unwrap().len(), 64 * 512);

            let mut id = [0xff; 20];
            assert_eq!(driver.device_id(&mut id), Ok(6));
            assert_eq!(&id[..6], b"disk-1");

            wait_for("the interrupt", || wire.is_high());
            assert!(driver.ack_interrupt() == InterruptStatus::QUEUE_INTERRUPT);
        }
    });
}

#[test]
fn the_block_driver_sees_that_a_disk_is_read_only() {
    within_patience(|| {
        let file = image(8);
        let page = disk(&POOL.ram, &file, true);
        let mut driver = VirtIOBlk::<Bounce, _>::new(Port { page, mask: u64::MAX }).unwrap();
        assert!(driver.readonly());
        assert_eq!(driver.write_blocks(0, &[1; 512]), Err(Error::IoError));
    });
}

#[test]
#[allow(unsafe_code)]
fn the_block_driver_keeps_several_reads_in_flight() {
    within_patience(|| {
        for mask in MASKS {
            let file = image(64);
            let page = disk(&POOL.ram, &file, false);
            let mut driver = VirtIOBlk::<Bounce, _>::new(Port { page, mask }).unwrap();
            let mut reads: Vec<_> = (0..5)
                .map(|_| (BlkReq::default(), [0; SECTOR_SIZE], BlkResp::default()))
                .collect();
            for round in 0..200 {
                let mut tokens = Vec::new();
                for (n, (request, data, response)) in (0..).zip(&mut reads) {
                    let sector = (round + 7 * n) % 64;
                    // SAFETY: the three are in `reads`, and not accessed until they complete below.
                    let token = unsafe { driver.read_blocks_nb(sector, request, data, response) };
                    tokens.push((token.unwrap(), sector));
                }
                for ((token, sector), (request, data, response)) in tokens.iter().zip(&mut reads) {
                    wait_for("the read", || driver.peek_used() == Some(*token));
                    // SAFETY: the same three with which the read of this token began.
                    let completed =
                        unsafe { driver.complete_read_blocks(*token, request, data, response) };
                    completed.unwrap();
                    assert_eq!(response.status(), RespStatus::OK);
                    assert_eq!(*data, [pattern(*sector as u64); SECTOR_SIZE]);
                }
            }
        }
    });
}

#[test]
fn the_console_driver_sends_and_receives() {
    within_patience(|| {
        for mask in MASKS {
            let (page, mut terminal) = console(&POOL.ram);
            let mut driver = VirtIOConsole::<Bounce, _>::new(Port { page, mask }).unwrap();
            for line in ["x", "a line\n", &"more than a page ".repeat(300)] {
                let mut line = line.as_bytes();
                driver.send_bytes(line).unwrap();
                let mut seen = vec![0; line.len()];
                terminal.screen.read_exact(&mut seen).unwrap();
                assert_eq!(seen, line);

                terminal.keyboard.write_all(line).unwrap();
                wait_for("the input", || {
                    while let Some(byte) = driver.recv(true).unwrap() {
                        assert_eq!(Some(&byte), line.first());
                        line = &line[1..];
                    }
                    line.is_empty()
                });
            }
        }
    });
}

#[test]
fn a_driver_dropped_and_built_again_finds_the_device_reset() {
    within_patience(|| {
        let file = image(8);
        let page = disk(&POOL.ram, &file, false);
        for _ in 0..20 {
            let port = Port { page: page.clone(), mask: u64::MAX };
            let mut driver = VirtIOBlk::<Bounce, _>::new(port).unwrap();
            let mut data = [0; SECTOR_SIZE];
            driver.read_blocks(3, &mut data).unwrap();
            assert_eq!(data, [3; SECTOR_SIZE]);
        }
    });
}
