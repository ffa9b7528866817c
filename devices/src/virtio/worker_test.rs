use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ThreadId};

use super::*;
use crate::rig::{DATA, Rig, WRITE};
use crate::virtio::lifecycle::Lifecycle;
use crate::virtio::{ConfigSpace, DeviceId};

/// Reports the thread in which each chain was served. A chain of queue 1 waits until the test
/// allows it.
struct Probe {
    served: Sender<ThreadId>,
    release: Receiver<()>,
    /// How many times the driver offers another chain when one is served.
    refills: u32,
    rig: Arc<Rig>,
}

impl VirtioDevice for Probe {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn queues(&self) -> &[u16] {
        &[4, 4]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        if index == 1 {
            self.served.send(thread::current().id()).unwrap();
            self.release.recv().unwrap();
            return Ok(());
        }
        let Some(queue) = queues.get(index) else {
            return Ok(());
        };
        queue.drain(|_| {
            self.served.send(thread::current().id()).unwrap();
            if self.refills > 0 {
                self.refills -= 1;
                self.rig.offer(0);
            }
            Some(0)
        })
    }
}

/// A live device with queue 0, and the test's side of it.
struct Live {
    rig: Arc<Rig>,
    device: Lifecycle,
    server: Inline,
    kicks: Arc<[EventFd]>,
    served: Receiver<ThreadId>,
    release: Sender<()>,
}

fn live(refills: u32) -> Live {
    let rig = Arc::new(Rig::new(4));
    rig.descriptor(0, (DATA, 8), WRITE, 0);
    let ((served, seen), (release, released)) = (channel(), channel());
    let probe = Probe { served, release: released, refills, rig: Arc::clone(&rig) };
    let kicks: Arc<[EventFd]> = [event().unwrap(), event().unwrap()].into();
    let notify: Arc<dyn Notify> = rig.interrupt.clone();
    let device = Lifecycle::new(Box::new(probe), Arc::clone(&kicks), notify, None);
    let mut device = device.unwrap();
    device.start(Queues::new(vec![Some(rig.queue(0)), None]));
    Live { rig, server: device.inline(), device, kicks, served: seen, release }
}

#[test]
fn a_kick_that_is_served_inline_is_done_on_return_in_the_same_thread() {
    let live = live(0);
    live.rig.offer(0);
    assert!(live.server.try_serve(0));
    assert_eq!(live.rig.used_idx(), 1);
    assert_eq!(live.served.try_recv(), Ok(thread::current().id()));
    assert!(live.rig.wire.is_high());
}

#[test]
fn while_the_devices_thread_serves_no_other_thread_does() {
    let mut live = live(0);
    live.kicks[1].write(1).unwrap();
    assert_ne!(live.served.recv(), Ok(thread::current().id()));
    live.rig.offer(0);
    assert!(!live.server.try_serve(0));
    assert_eq!(live.rig.used_idx(), 0);
    // A transport does the same.
    live.kicks[0].write(1).unwrap();
    live.release.send(()).unwrap();
    assert_ne!(live.served.recv(), Ok(thread::current().id()));
    live.device.reset();
    assert_eq!(live.rig.used_idx(), 1);
}

#[test]
fn the_devices_thread_continues_what_another_leaves_unfinished() {
    let live = live(6);
    live.rig.offer(0);
    assert!(live.server.try_serve(0));
    let served: Vec<_> = (0..7).map(|_| live.served.recv().unwrap()).collect();
    let here = thread::current().id();
    let own = served.iter().take_while(|id| **id == here).count();
    assert_eq!(own, 4, "as many as the ring is long");
    assert!(!served[own..].contains(&here));
}

#[test]
fn an_invalid_ring_found_inline_needs_a_reset_and_is_not_served() {
    let live = live(0);
    live.rig.set_available(5);
    assert!(live.server.try_serve(0));
    assert!(live.rig.interrupt.is_reset_needed());
    live.rig.set_available(0);
    live.rig.offer(0);
    assert!(live.server.try_serve(0));
    assert_eq!(live.rig.used_idx(), 0);
}

#[test]
fn an_absent_queue_does_nothing() {
    let mut live = live(0);
    let beyond = [FILES, WAKE].map(|data| usize::try_from(data).unwrap());
    for index in [2, usize::MAX].into_iter().chain(beyond) {
        live.server.try_serve(index);
    }
    live.rig.offer(0);
    assert!(live.server.try_serve(0));
    live.device.reset();
}

#[test]
fn concurrent_threads_serve_each_chain_once() {
    const CHAINS: u16 = 500;
    let mut live = live(0);
    let (rig, server, kick) = (&live.rig, &live.server, &live.kicks[0]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while rig.used_idx() != CHAINS {
                    if !server.try_serve(0) {
                        kick.write(1).unwrap();
                    }
                    thread::yield_now();
                }
            });
        }
        for chain in 0..CHAINS {
            while rig.used_idx() != chain {
                thread::yield_now();
            }
            rig.offer(0);
        }
    });
    live.device.reset();
    assert_eq!(live.served.try_iter().count(), usize::from(CHAINS));
}
