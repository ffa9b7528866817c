//! A reset waits only for the request in progress, however many are queued behind it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Instant;

use guest::virtio::feature;
use guest::{Segment, Transport};
use support::{Page, Ram, disk, wait_for};

const QUEUE: u16 = 64;
/// Bytes of a segment. All segments are the same memory.
const SEGMENT: usize = 512 << 10;
/// Segments of a request, which then has 7 MiB.
const SEGMENTS: usize = 14;

/// A live disk whose ring is full of large reads, and the guest address of its used index.
fn busy(ram: &Ram, page: &Page) -> (Transport<Page>, u64) {
    let mut dma = ram.dma();
    let mut transport = page.probe();
    transport.negotiate(feature::INDIRECT_DESC).unwrap();
    let mut queue = transport.queue(0, QUEUE, &mut dma).unwrap();
    transport.start();
    let header = dma.alloc(16).unwrap();
    header.fill(0);
    let status = dma.alloc(1).unwrap();
    let data = dma.alloc(SEGMENT).unwrap();
    let mut segments = vec![Segment::readable(&header)];
    segments.extend((0..SEGMENTS).map(|_| Segment::writable(&data)));
    segments.push(Segment::writable(&status));
    for _ in 0..QUEUE {
        queue.add(&segments).unwrap();
    }
    let _ = queue.publish();
    transport.notify(0);
    (transport, queue.device_area() + 2)
}

fn used(ram: &Ram, at: u64) -> u16 {
    u16::from_le_bytes(ram.read(at, 2).try_into().unwrap())
}

#[test]
fn a_reset_does_not_wait_for_the_requests_behind_the_one_in_progress() {
    let ram = Ram::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len((SEGMENT * SEGMENTS) as u64).unwrap();
    let page = disk(&ram, &file, true);
    let (mut transport, at) = busy(&ram, &page);
    wait_for("a request", || used(&ram, at) > 0);
    let before = used(&ram, at);
    let began = Instant::now();
    transport.reset().unwrap();
    // For docs/testing.md, with --nocapture.
    let ms = began.elapsed().as_millis();
    let after = used(&ram, at);
    println!("reset: {ms} ms, {before} requests of {QUEUE} before it, {after} after it");
    assert!(after < QUEUE, "all {QUEUE} requests were served first");
}
