//! Resets one queue of a live device again and again while the other works (§ 2.6.1).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::thread;

use guest::mmio::offset;
use guest::{Dma, Queue, Region, Registers, Segment, Transport};
use support::{Page, Ram, console, wait_for};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const RING_RESET: u64 = 1 << 40;
const QUEUE_RESET: usize = 0x0c0;

/// A live console whose queues the test drives.
fn live(page: &Page, dma: &mut Dma) -> (Transport<Page>, Queue, Queue) {
    let mut transport = page.probe();
    let agreed = transport.negotiate(RING_RESET).unwrap();
    assert_ne!(agreed & RING_RESET, 0);
    let receive = transport.queue(RECEIVE, 8, dma).unwrap();
    let transmit = transport.queue(TRANSMIT, 8, dma).unwrap();
    transport.start();
    (transport, receive, transmit)
}

fn reset(page: &Page, queue: u16) {
    page.write(offset::QUEUE_SEL, queue.into());
    page.write(QUEUE_RESET, 1);
    assert_eq!(page.read(QUEUE_RESET), 0);
    assert_eq!(page.read(offset::QUEUE_READY), 0);
}

/// Makes `bytes` available to the device, in `region`.
fn offer(page: &Page, queue: &mut Queue, region: &Region, bytes: &[u8]) {
    let part = region.slice(0..bytes.len());
    part.write(0, bytes);
    queue.add(&[Segment::readable(&part)]).unwrap();
    // A kick that the device did not ask for is allowed.
    let _ = queue.publish();
    page.write(offset::QUEUE_NOTIFY, TRANSMIT.into());
}

fn take_back(queue: &mut Queue) {
    wait_for("the buffer", || queue.pop().unwrap().is_some());
}

#[test]
fn resets_of_one_queue_lose_nothing_of_the_other() {
    const LINES: u32 = 2000;
    let ram = Ram::new();
    let (page, mut terminal) = console(&ram);
    let (mut dma, mut others) = (ram.dma(), ram.dma());
    let (mut transport, _, mut transmit) = live(&page, &mut dma);
    let region = dma.alloc(64).unwrap();
    let line = |n: u32| format!("{n:06}\n").into_bytes();
    let lines: Vec<u8> = (0..LINES).flat_map(line).collect();
    let seen = thread::scope(|scope| {
        let screen = scope.spawn(|| {
            let mut seen = vec![0; lines.len()];
            terminal.screen.read_exact(&mut seen).unwrap();
            seen
        });
        scope.spawn(|| {
            for _ in 0..60 {
                reset(&page, RECEIVE);
                transport.queue(RECEIVE, 8, &mut others).unwrap();
            }
        });
        for line in lines.chunks(7) {
            offer(&page, &mut transmit, &region, line);
            take_back(&mut transmit);
        }
        screen.join().unwrap()
    });
    assert!(seen == lines);
}

#[test]
fn a_reset_drops_the_chain_on_which_the_queue_stalled() {
    let ram = Ram::new();
    let (page, mut terminal) = console(&ram);
    let mut dma = ram.dma();
    let (mut transport, mut receive, mut transmit) = live(&page, &mut dma);
    let region = dma.alloc(64).unwrap();
    let clogged = terminal.clog();
    offer(&page, &mut transmit, &region, b"never to be seen");
    reset(&page, TRANSMIT);

    // The other direction continues.
    terminal.keyboard.write_all(b"typed").unwrap();
    let into = dma.alloc(64).unwrap();
    receive.add(&[Segment::writable(&into)]).unwrap();
    let _ = receive.publish();
    page.write(offset::QUEUE_NOTIFY, RECEIVE.into());
    take_back(&mut receive);
    assert_eq!(ram.read(into.bus(), 5), b"typed");
    assert_eq!(transmit.pop().unwrap(), None);

    let mut transmit = transport.queue(TRANSMIT, 4, &mut dma).unwrap();
    offer(&page, &mut transmit, &region, b"new");
    let mut seen = vec![0; clogged + 3];
    terminal.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen[clogged..], b"new");
    take_back(&mut transmit);
    transport.alive().unwrap();
}
