use std::sync::Mutex;

use super::*;
use crate::block::Block;
use crate::observe::HostCall;
use crate::rig::{DATA, Rig, WRITE};
use crate::virtio::queue::FEATURES;

/// Records the events.
#[derive(Default)]
struct Witness(Mutex<Vec<Event>>);

impl DeviceObserver for Witness {
    fn see(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Witness {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// An observed disk of eight sectors with one queue, and a request of type `kind` in its ring:
/// header, one sector, status.
fn requested(kind: u32) -> (Rig, Observed, Queues, Arc<Witness>) {
    let rig = Rig::new(8);
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let witness = Arc::new(Witness::default());
    let block = Box::new(Block::new(file, 4096, false, ""));
    let device = Observed::new(block, witness.clone());
    let queues = Queues::new(vec![Some(rig.queue(FEATURES))]);
    rig.write(DATA, &kind.to_le_bytes());
    rig.write(DATA + 8, &3_u64.to_le_bytes());
    let status = DATA + 0x100;
    rig.chain(
        2,
        &[
            (DATA, 16, 0),
            (DATA + 0x1000, 512, WRITE),
            (status, 1, WRITE),
        ],
    );
    rig.offer(2);
    (rig, device, queues, witness)
}

#[test]
fn a_request_is_reported_from_its_kick_to_its_publication() {
    let (_rig, mut device, mut queues, witness) = requested(0);
    device.process_queue(0, &mut queues).unwrap();
    let (queue, head) = (0, 2);
    let expected = [
        Event::Kicked { queue },
        Event::Popped { queue, head, descriptors: 3, readable: 16, writable: 513, waiting: 1 },
        Event::Host { call: HostCall::Read, offset: 3 * 512, len: 512 },
        Event::HostDone { ok: true },
        Event::Used { queue, head, written: 513 },
        Event::Published { queue, index: 1, count: 1, interrupt: true },
        Event::Idle,
    ];
    assert_eq!(witness.take(), expected);
}

#[test]
fn a_refused_request_is_reported_with_its_status() {
    let (_rig, mut device, mut queues, witness) = requested(77);
    device.process_queue(0, &mut queues).unwrap();
    let events = witness.take();
    assert!(events.contains(&Event::Failed { status: 2 }), "{events:?}");
}

#[test]
fn an_invalid_ring_is_reported() {
    let (rig, mut device, mut queues, witness) = requested(0);
    rig.set_available(100);
    device.process_queue(0, &mut queues).unwrap_err();
    assert_eq!(witness.take().last(), Some(&Event::QueueError));
}

#[test]
fn a_rising_wire_is_reported_and_a_falling_one_is_not() {
    let rig = Rig::new(8);
    let witness = Arc::new(Witness::default());
    let line = ObservedLine::new(Box::new(rig.wire.clone()), witness.clone());
    line.set(true);
    line.set(false);
    assert_eq!(witness.take(), [Event::Raised]);
    assert!(!rig.wire.is_high());
}
