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
struct Bench {
    go: Sender<()>,
    begun: Receiver<()>,
    device: Lifecycle,
    kicks: Arc<[EventFd]>,
    rig: Rig,
}

/// A live device with `chains` chains, of which the first is in progress.
fn begun(chains: u16, patience: Option<Duration>) -> Bench {
    let rig = Rig::new(8);
    let ((begin, begun), (go, gone)) = (channel(), channel());
    let kicks: Arc<[EventFd]> = [event().unwrap()].into();
    let notify: Arc<dyn Notify> = rig.interrupt.clone();
    let slow = Slow { begun: begin, go: gone };
    let device = Lifecycle::new(Box::new(slow), Arc::clone(&kicks), notify, patience);
    let mut device = device.unwrap();
    for chain in 0..chains {
        rig.descriptor(chain, (DATA, 8), WRITE, 0);
        rig.offer(chain);
    }
    device.start(Queues::new(vec![Some(rig.queue(0))]));
    kicks[0].write(1).unwrap();
    begun.recv().unwrap();
    Bench { rig, device, kicks, begun, go }
}

/// Calls `change` while a request is in progress. Once `change` waits, lets that request end, and
/// no other.
fn while_at_work(bench: &mut Bench, change: impl FnOnce(&mut Lifecycle) + Send) {
    let (device, go) = (&mut bench.device, &bench.go);
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
    let mut bench = begun(6, None);
    while_at_work(&mut bench, Lifecycle::reset);
    assert_eq!(bench.rig.used_idx(), 1);
    assert!(bench.begun.try_recv().is_err());
    assert_eq!(bench.device.state, State::Offered);
}

#[test]
fn a_paused_device_resumes_where_it_was_without_another_kick() {
    let mut bench = begun(4, None);
    while_at_work(&mut bench, Lifecycle::pause);
    assert_eq!(bench.rig.used_idx(), 1);
    // A paused device ignores kicks.
    bench.kicks[0].write(1).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(bench.begun.try_recv().is_err());

    bench.device.resume();
    for _ in 0..3 {
        bench.begun.recv().unwrap();
        bench.go.send(()).unwrap();
    }
    while bench.rig.used_idx() != 4 {
        thread::yield_now();
    }
    let heads = (0..4).map(|index| bench.rig.used(index).0);
    assert!(heads.eq(0..4), "each once, in order");
}

#[test]
fn another_queue_takes_effect_between_two_requests_of_the_old_one() {
    let mut bench = begun(4, None);
    while_at_work(&mut bench, |device| device.replace_queue(0, None));
    assert_eq!(bench.rig.used_idx(), 1);
    bench.kicks[0].write(1).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(bench.begun.try_recv().is_err());
}

#[test]
fn a_device_that_never_ends_its_request_is_lost_and_does_not_hold_up_its_transport() {
    let mut bench = begun(4, Some(Duration::from_millis(30)));
    bench.device.pause();
    assert!(bench.device.is_lost());
    bench.device.reset();
    bench.device.resume();
    assert!(bench.device.is_lost());
    // If the request ends after all, no other starts.
    bench.go.send(()).unwrap();
    // Its thread then ends: otherwise it would check the queues forever, and use a CPU.
    bench.device.worker.thread.take().unwrap().join().unwrap();
    assert_eq!(bench.rig.used_idx(), 1);
    assert!(bench.begun.try_recv().is_err());
}

#[test]
fn a_used_chain_is_published_before_a_slow_request_after_it() {
    let bench = begun(3, None);
    // The first request is slow too.
    thread::sleep(Duration::from_millis(5));
    bench.go.send(()).unwrap();
    bench.begun.recv().unwrap();
    assert_eq!(bench.rig.used_idx(), 1, "while the second is in hand");
    assert!(bench.rig.wire.is_high());
}

#[test]
fn a_single_used_chain_is_published_before_a_request_that_came_meanwhile() {
    let bench = begun(1, None);
    bench.rig.descriptor(1, (DATA, 8), WRITE, 0);
    bench.rig.offer(1);
    bench.go.send(()).unwrap();
    bench.begun.recv().unwrap();
    assert_eq!(bench.rig.used_idx(), 1, "while the second is in hand");
}
