//! Queues with `inline_notify`: any vCPU serves them beside the device's thread, and none does once
//! the queue was reset, disabled or stopped.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use devices::virtio::QueueError;
use devices::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice};
use guest::mmio::offset;
use guest::{Console, Dma, Queue, Region, Registers, Segment, Transport};
use support::{Page, Ram, console, timeout, wait_for};

const RING_RESET: u64 = 1 << 40;

/// The device's thread serves queue 0; queue 1 is served inline.
const AT_ONCE: u16 = 1;

/// Entries of the queue, and bytes of its device area (§ 2.7.8).
const ENTRIES: u16 = 8;
const DEVICE_AREA: usize = 6 + 8 * ENTRIES as usize;

/// Answers every chain.
struct Probe;

impl VirtioDevice for Probe {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn queues(&self) -> &[u16] {
        &[ENTRIES, ENTRIES]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn inline_notify(&self, index: usize) -> bool {
        index == usize::from(AT_ONCE)
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let queue = queues.get(index);
        queue.map_or(Ok(()), |queue| queue.drain(|_| Some(0)))
    }
}

/// A live device whose queue 1 the test drives.
fn live(page: &Page, dma: &mut Dma) -> (Transport<Page>, Queue) {
    let mut transport = page.probe();
    transport.negotiate(RING_RESET).unwrap();
    let queue = transport.queue(AT_ONCE, ENTRIES, dma).unwrap();
    transport.start();
    (transport, queue)
}

fn offer(queue: &mut Queue, region: &Region) {
    queue.add(&[Segment::readable(region)]).unwrap();
    // A kick that the device did not ask for is allowed.
    let _ = queue.publish();
}

#[test]
fn a_chain_served_inline_is_used_when_the_store_returns() {
    let ram = Ram::new();
    let page = Page::new(&ram, Probe);
    let mut dma = ram.dma();
    let (_transport, mut queue) = live(&page, &mut dma);
    let region = dma.alloc(64).unwrap();
    for _ in 0..100 {
        offer(&mut queue, &region);
        page.write(offset::QUEUE_NOTIFY, AT_ONCE.into());
        assert!(queue.pop().unwrap().is_some());
    }
}

#[test]
fn only_the_other_queues_can_be_notified_past_the_registers() {
    let ram = Ram::new();
    let page = Page::new(&ram, Probe);
    let queues: Vec<u32> = page.mmio.kicks().map(|(queue, _)| queue).collect();
    assert_eq!(queues, [0]);
}

/// Runs `rounds` while two more vCPUs only notify. Its argument waits until they do.
fn process_queue(page: &Page, rounds: impl FnOnce(&dyn Fn())) {
    let (kicks, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    page.write(offset::QUEUE_NOTIFY, AT_ONCE.into());
                    kicks.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            });
        }
        rounds(&|| {
            let before = kicks.load(Ordering::SeqCst);
            wait_for("kicks", || kicks.load(Ordering::SeqCst) > before + 10);
        });
        over.store(true, Ordering::SeqCst);
    });
}

/// Serves a few chains, calls `take`, which ends the use of the queue, and makes one more chain
/// available, which must stay untouched.
fn served_until(take: impl Fn(&Page)) {
    let ram = Ram::new();
    let page = Page::new(&ram, Probe);
    process_queue(&page, |kicks_come| {
        for _ in 0..8 {
            let mut dma = ram.dma();
            let (_transport, mut queue) = live(&page, &mut dma);
            let region = dma.alloc(64).unwrap();
            for _ in 0..20 {
                offer(&mut queue, &region);
                wait_for("the buffer", || queue.pop().unwrap().is_some());
            }
            take(&page);
            offer(&mut queue, &region);
            let used = || ram.read(queue.device_area(), DEVICE_AREA);
            let before = used();
            kicks_come();
            assert_eq!(used(), before);
            page.write(offset::STATUS, 0);
        }
    });
}

#[test]
fn after_a_reset_no_vcpu_serves_the_queue() {
    served_until(|page| page.write(offset::STATUS, 0));
}

#[test]
fn after_the_reset_of_the_queue_no_vcpu_serves_it() {
    served_until(|page| {
        page.write(offset::QUEUE_SEL, AT_ONCE.into());
        page.write(offset::QUEUE_RESET, 1);
    });
}

#[test]
fn after_a_stop_no_vcpu_serves_the_queue() {
    served_until(|page| page.mmio.stop());
}

#[test]
fn resets_of_one_queue_lose_no_kick_of_another() {
    let ram = Ram::new();
    let page = Page::new(&ram, Probe);
    let mut dma = ram.dma();
    let (_transport, mut queue) = live(&page, &mut dma);
    let region = dma.alloc(64).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                page.write(offset::QUEUE_SEL, 0);
                page.write(offset::QUEUE_RESET, 1);
                thread::yield_now();
            }
        });
        for _ in 0..500 {
            offer(&mut queue, &region);
            // Only once: a notification that finds the device busy must reach the thread.
            page.write(offset::QUEUE_NOTIFY, AT_ONCE.into());
            wait_for("the buffer", || queue.pop().unwrap().is_some());
        }
        over.store(true, Ordering::SeqCst);
    });
}

/// The device's thread serves the input, and the vCPU the output.
#[test]
fn concurrent_input_and_output_lose_nothing() {
    const WORDS: u32 = 64 << 10;
    const MUCH: usize = 4 * WORDS as usize;
    let ram = Ram::new();
    let (page, terminal) = console(&ram);
    let mut console = Console::new(page.probe(), &mut ram.dma(), guest::console::WANTED).unwrap();
    let typed: Vec<u8> = (0..WORDS).flat_map(u32::to_le_bytes).collect();
    let (mut keyboard, mut screen) = (&terminal.keyboard, &terminal.screen);
    thread::scope(|scope| {
        scope.spawn(|| keyboard.write_all(&typed).unwrap());
        let echo = scope.spawn(|| {
            let mut seen = vec![0; MUCH];
            screen.read_exact(&mut seen).unwrap();
            seen
        });
        let (mut into, mut count) = ([0; 100], 0);
        let mut wait = timeout();
        while count < MUCH {
            let received = console.receive(&mut into).unwrap();
            console.send(&into[..received], &mut timeout()).unwrap();
            count += received;
            assert!(received > 0 || wait(), "{count} bytes came");
        }
        assert!(echo.join().unwrap() == typed);
    });
}
