//! Every interleaving of a queue with its driver, in every order of loads and stores that their
//! orderings allow: neither side sleeps while there is work for it.
//!
//! The device's side is the real code. The driver does what § 2.7.13 requires, and no more.

use std::sync::Arc;

use loom::thread;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::irq::IrqLine;
use crate::sync::{AtomicBool, AtomicU64};
use crate::transport::interrupt::Interrupt;

const SIZE: u16 = 2;
/// used_event in the driver area, avail_event in the device area.
const USED_EVENT: usize = RING + SIZE as usize;
const AVAIL_EVENT: usize = RING + 4 * SIZE as usize;

/// The state that both sides share.
#[derive(Clone)]
struct Rings {
    driver: RingWords<AtomicU16>,
    device: RingWords<AtomicU16>,
    used: RingWords<[AtomicU32; 2]>,
    /// A kick that the device has not seen. It stands for an eventfd, of which every write and read
    /// is a separate step.
    kick: Arc<AtomicBool>,
    /// Whether the driver was interrupted.
    wire: Arc<AtomicBool>,
}

struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        self.0.store(high, Ordering::Release);
    }
}

fn words<T>(count: usize, new: impl Fn() -> T) -> RingWords<T> {
    RingWords(Arc::new((0..count).map(|_| new()).collect()))
}

/// Rings whose every descriptor is an empty chain, and the queue over them.
fn rings(event_idx: bool) -> (Rings, Queue) {
    let word = || AtomicU16::new(0);
    let rings = Rings {
        driver: words(USED_EVENT + 1, word),
        device: words(AVAIL_EVENT + 1, word),
        used: words(usize::from(SIZE), || [0; 2].map(AtomicU32::new)),
        kick: Arc::new(AtomicBool::new(false)),
        wire: Arc::new(AtomicBool::new(false)),
    };
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
    let memory = Memory::new(Arc::new(ram));
    let queue = Queue {
        table: Table {
            entries: words(usize::from(SIZE), || [0; 2].map(AtomicU64::new)),
            size: SIZE,
            indirect: 0,
            memory: memory.clone(),
        },
        driver: rings.driver.clone(),
        device: rings.device.clone(),
        used: rings.used.clone(),
        memory,
        size: SIZE,
        event_idx,
        next_available: 0,
        next_used: 0,
        published: 0,
        waiting: 0,
        ahead: std::collections::VecDeque::new(),
        group: Vec::new(),
        unfinished: false,
        stride: 1,
        spare: Vec::new(),
        notify: Arc::new(Interrupt::new(Box::new(Wire(Arc::clone(&rings.wire))))),
        index: 0,
        stop: Stop::default(),
        observer: None,
    };
    (rings, queue)
}

impl Rings {
    /// Makes entry `idx` available, and kicks if the device wants that (§ 2.7.13.3, § 2.7.13.4.1).
    fn offer(&self, idx: u16, event_idx: bool) {
        self.driver
            .at(RING + usize::from(idx % SIZE))
            .store(idx % SIZE, Ordering::Relaxed);
        self.driver.at(IDX).store(idx + 1, Ordering::Release);
        fence(Ordering::SeqCst);
        let kick = match event_idx {
            true => passed(
                self.device.at(AVAIL_EVENT).load(Ordering::Relaxed),
                idx,
                idx + 1,
            ),
            false => self.device.at(FLAGS).load(Ordering::Relaxed) & NO_NOTIFICATION == 0,
        };
        if kick {
            self.kick.swap(true, Ordering::AcqRel);
        }
    }

    /// Asks for the next interrupt, and reads the used index once more (§ 2.7.14).
    fn seen_before_sleeping(&self, event_idx: bool) -> u16 {
        let idx = self.device.at(IDX).load(Ordering::Acquire);
        match event_idx {
            true => self.driver.at(USED_EVENT).store(idx, Ordering::Relaxed),
            false => self.driver.at(FLAGS).store(0, Ordering::Relaxed),
        }
        fence(Ordering::SeqCst);
        self.device.at(IDX).load(Ordering::Acquire)
    }

    /// The heads in the used ring below `idx`.
    fn used_heads(&self, idx: u16) -> Vec<u32> {
        let head = |entry: u16| self.used.load(entry.into(), Ordering::Relaxed)[0];
        (0..idx).map(head).collect()
    }
}

/// The device's thread: serves the queue once for each kick that it has not seen.
fn serve(rings: &Rings, queue: &mut Queue) -> u16 {
    let mut served = 0;
    while rings.kick.swap(false, Ordering::AcqRel) {
        let drained = queue.drain(|_| {
            served += 1;
            Some(0)
        });
        drained.unwrap();
    }
    served
}

fn a_chain_is_served_or_a_kick_is_on_its_way(event_idx: bool) {
    loom::model(move || {
        let (rings, mut queue) = rings(event_idx);
        rings.offer(0, event_idx);
        let driver = {
            let rings = rings.clone();
            thread::spawn(move || rings.offer(1, event_idx))
        };
        let served = serve(&rings, &mut queue);
        driver.join().unwrap();
        assert!(
            served == 2 || rings.kick.fetch_or(false, Ordering::AcqRel),
            "{served} served, asleep"
        );
        assert_eq!(served + serve(&rings, &mut queue), 2);
    });
}

#[test]
fn by_flags_a_chain_is_served_or_a_kick_is_on_its_way() {
    a_chain_is_served_or_a_kick_is_on_its_way(false);
}

#[test]
fn by_event_idx_a_chain_is_served_or_a_kick_is_on_its_way() {
    a_chain_is_served_or_a_kick_is_on_its_way(true);
}

fn a_used_chain_is_seen_or_interrupts(event_idx: bool) {
    loom::model(move || {
        let (rings, mut queue) = rings(event_idx);
        rings.offer(0, event_idx);
        // The suppression that a polling driver has set.
        rings
            .driver
            .at(FLAGS)
            .store(NO_NOTIFICATION, Ordering::Relaxed);
        rings
            .driver
            .at(USED_EVENT)
            .store(u16::MAX, Ordering::Relaxed);
        let driver = {
            let rings = rings.clone();
            thread::spawn(move || {
                let seen = rings.seen_before_sleeping(event_idx);
                // The element is visible before the index.
                assert_eq!(rings.used_heads(seen).len(), usize::from(seen));
                seen
            })
        };
        queue.drain(|_| Some(0)).unwrap();
        let seen = driver.join().unwrap();
        let interrupted = rings.wire.load(Ordering::Acquire);
        assert!(
            seen == 1 || interrupted,
            "the driver sleeps over a used chain"
        );
    });
}

#[test]
fn by_flags_a_used_chain_is_seen_or_interrupts() {
    a_used_chain_is_seen_or_interrupts(false);
}

#[test]
fn by_event_idx_a_used_chain_is_seen_or_interrupts() {
    a_used_chain_is_seen_or_interrupts(true);
}

/// Acquire and release: the data that an index stands for is visible when the index is.
#[test]
fn an_index_is_never_seen_before_what_it_stands_for() {
    loom::model(|| {
        let (rings, mut queue) = rings(false);
        // An invalid head, until the driver has written its own.
        rings.driver.at(RING).store(99, Ordering::Relaxed);
        rings.used.put(0, [0, 99], Ordering::Relaxed);
        let driver = {
            let rings = rings.clone();
            thread::spawn(move || {
                rings.offer(0, false);
                if rings.device.at(IDX).load(Ordering::Acquire) == 1 {
                    assert_eq!(rings.used.load(0, Ordering::Relaxed)[1], 7);
                }
            })
        };
        queue.drain(|_| Some(7)).unwrap();
        driver.join().unwrap();
    });
}
