use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::*;
use crate::rig::{DATA, Rig, WRITE};
use crate::sync::event;
use crate::virtio::{ConfigSpace, DeviceId};

/// A device that reports each chain, and serves it when the test allows it.
struct Slow {
    begun: Sender<()>,
    go: Receiver<()>,
}

impl VirtioDevice for Slow {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn queues(&self) -> &[u16] {
        &[8]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match queues.get(index) {
            Some(queue) => queue.drain(|_| {
                // Neither fails before the end of the test.
                let _ = self.begun.send(());
                let _ = self.go.recv();
                Some(0)
            }),
            None => Ok(()),
        }
    }
}

/// The fields are dropped in this order: without the test's channels, the device serves the rest
/// without waiting.
struct Fixture {
    go: Sender<()>,
    begun: Receiver<()>,
    device: Lifecycle,
    kicks: Arc<[EventFd]>,
    rig: Rig,
}

/// A live device with `chains` chains, of which the first is in progress.
fn begun(chains: u16, timeout: Option<Duration>) -> Fixture {
    let rig = Rig::new(8);
    let ((begin, begun), (go, gone)) = (channel(), channel());
    let kicks: Arc<[EventFd]> = [event().unwrap()].into();
    let notify: Arc<dyn Notify> = rig.interrupt.clone();
    let slow = Slow { begun: begin, go: gone };
    let device = Lifecycle::new(Box::new(slow), Arc::clone(&kicks), notify, timeout);
    let mut device = device.unwrap();
    for chain in 0..chains {
        rig.descriptor(chain, (DATA, 8), WRITE, 0);
        rig.offer(chain);
    }
    device.start(Queues::new(vec![Some(rig.queue(0))]));
    kicks[0].write(1).unwrap();
    begun.recv().unwrap();
    Fixture { rig, device, kicks, begun, go }
}

/// Calls `change` while a request is in progress. Once `change` waits, lets that request end, and
/// no other.
fn while_at_work(fixture: &mut Fixture, change: impl FnOnce(&mut Lifecycle) + Send) {
    let (device, go) = (&mut fixture.device, &fixture.go);
    let (called, waits) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            called.send(()).unwrap();
            change(device);
        });
        waits.recv().unwrap();
        // It was called; the first thing that it does is to set the flag.
        thread::sleep(Duration::from_millis(50));
        go.send(()).unwrap();
    });
}

#[test]
fn a_reset_waits_only_for_the_request_in_progress() {
    let mut fixture = begun(6, None);
    while_at_work(&mut fixture, Lifecycle::reset);
    assert_eq!(fixture.rig.used_idx(), 1);
    assert!(fixture.begun.try_recv().is_err());
    assert_eq!(fixture.device.state, State::Offered);
}

#[test]
fn a_paused_device_resumes_where_it_was_without_another_kick() {
    let mut fixture = begun(4, None);
    while_at_work(&mut fixture, Lifecycle::pause);
    assert_eq!(fixture.rig.used_idx(), 1);
    // A paused device ignores kicks.
    fixture.kicks[0].write(1).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(fixture.begun.try_recv().is_err());

    fixture.device.resume();
    for _ in 0..3 {
        fixture.begun.recv().unwrap();
        fixture.go.send(()).unwrap();
    }
    while fixture.rig.used_idx() != 4 {
        thread::yield_now();
    }
    let heads = (0..4).map(|index| fixture.rig.used(index).0);
    assert!(heads.eq(0..4), "each once, in order");
}

#[test]
fn another_queue_takes_effect_between_two_requests_of_the_old_one() {
    let mut fixture = begun(4, None);
    while_at_work(&mut fixture, |device| device.replace_queue(0, None));
    assert_eq!(fixture.rig.used_idx(), 1);
    fixture.kicks[0].write(1).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(fixture.begun.try_recv().is_err());
}

#[test]
fn a_device_that_never_ends_its_request_is_lost_and_does_not_hold_up_its_transport() {
    let mut fixture = begun(4, Some(Duration::from_millis(30)));
    fixture.device.pause();
    assert!(fixture.device.is_lost());
    fixture.device.reset();
    fixture.device.resume();
    assert!(fixture.device.is_lost());
    // If the request ends after all, no other starts.
    fixture.go.send(()).unwrap();
    // Its thread then ends: otherwise it would check the queues forever, and use a CPU.
    fixture.device.worker.thread.take().unwrap().join().unwrap();
    assert_eq!(fixture.rig.used_idx(), 1);
    assert!(fixture.begun.try_recv().is_err());
}

#[test]
fn a_used_chain_is_published_before_a_slow_request_after_it() {
    let fixture = begun(3, None);
    // The first request is slow too.
    thread::sleep(Duration::from_millis(5));
    fixture.go.send(()).unwrap();
    fixture.begun.recv().unwrap();
    assert_eq!(fixture.rig.used_idx(), 1, "while the second is in hand");
    assert!(fixture.rig.wire.is_high());
}

#[test]
fn a_single_used_chain_is_published_before_a_request_that_came_meanwhile() {
    let fixture = begun(1, None);
    fixture.rig.descriptor(1, (DATA, 8), WRITE, 0);
    fixture.rig.offer(1);
    fixture.go.send(()).unwrap();
    fixture.begun.recv().unwrap();
    assert_eq!(fixture.rig.used_idx(), 1, "while the second is in hand");
}
