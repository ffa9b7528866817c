use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::*;
use crate::rig::{DATA, Rig, WRITE};
use crate::sync::event;
use crate::virtio::{ConfigSpace, DeviceId};

/// A device that reports each chain, and serves it when it is told to.
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
                // Neither fails before the test has ended.
                let _ = self.begun.send(());
                let _ = self.go.recv();
                Some(0)
            }),
            None => Ok(()),
        }
    }
}

/// Dropped in this order: without the test the device serves what is left at once.
struct Bench {
    go: Sender<()>,
    begun: Receiver<()>,
    device: Lifecycle,
    kicks: Arc<[EventFd]>,
    rig: Rig,
}

/// A live device with `chains` chains to serve, the first of which it has begun with.
fn begun(chains: u16, patience: Option<Duration>) -> Bench {
    let rig = Rig::new(8);
    let ((begin, begun), (go, gone)) = (channel(), channel());
    let kicks: Arc<[EventFd]> = [event().unwrap()].into();
    let notify: Arc<dyn Notify> = rig.interrupt.clone();
    let slow = Slow {
        begun: begin,
        go: gone,
    };
    let device = Lifecycle::new(Box::new(slow), Arc::clone(&kicks), notify, patience);
    let mut device = device.unwrap();
    for chain in 0..chains {
        rig.descriptor(chain, (DATA, 8), WRITE, 0);
        rig.offer(chain);
    }
    device.start(Queues::new(vec![Some(rig.queue(0))]));
    kicks[0].write(1).unwrap();
    begun.recv().unwrap();
    Bench {
        rig,
        device,
        kicks,
        begun,
        go,
    }
}

/// Calls `change` beside a device that is at work, and lets the request in hand end, and none after
/// it, once `change` waits for that.
fn while_at_work(bench: &mut Bench, change: impl FnOnce(&mut Lifecycle) + Send) {
    let (device, go) = (&mut bench.device, &bench.go);
    let (called, waits) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            called.send(()).unwrap();
            change(device);
        });
        waits.recv().unwrap();
        // It has been called; what it does first is to set the flag.
        thread::sleep(Duration::from_millis(50));
        go.send(()).unwrap();
    });
}

#[test]
fn a_reset_waits_for_the_request_in_hand_and_for_none_behind_it() {
    let mut bench = begun(6, None);
    while_at_work(&mut bench, Lifecycle::reset);
    assert_eq!(bench.rig.used_idx(), 1);
    assert!(bench.begun.try_recv().is_err());
    assert_eq!(bench.device.state, State::Offered);
}

#[test]
fn a_device_that_was_paused_goes_on_where_it_was_without_another_kick() {
    let mut bench = begun(4, None);
    while_at_work(&mut bench, Lifecycle::pause);
    assert_eq!(bench.rig.used_idx(), 1);
    // Paused, it hears of no kick.
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
    // If the request ends after all, it was the last.
    bench.go.send(()).unwrap();
    // Its thread ends then: one that looked at the queues for ever would use a CPU.
    bench.device.worker.thread.take().unwrap().join().unwrap();
    assert_eq!(bench.rig.used_idx(), 1);
    assert!(bench.begun.try_recv().is_err());
}

#[test]
fn what_was_used_is_published_before_a_request_behind_it_that_is_slow() {
    let bench = begun(3, None);
    // The first one takes its time as well.
    thread::sleep(Duration::from_millis(5));
    bench.go.send(()).unwrap();
    bench.begun.recv().unwrap();
    assert_eq!(bench.rig.used_idx(), 1, "while the second is in hand");
    assert!(bench.rig.wire.is_high());
}

#[test]
fn what_was_used_alone_is_published_before_a_request_that_came_meanwhile() {
    let bench = begun(1, None);
    bench.rig.descriptor(1, (DATA, 8), WRITE, 0);
    bench.rig.offer(1);
    bench.go.send(()).unwrap();
    bench.begun.recv().unwrap();
    assert_eq!(bench.rig.used_idx(), 1, "while the second is in hand");
}
