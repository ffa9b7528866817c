//! A live device's thread: it owns the device and its queues, waits for kicks, and calls the device.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use event_manager::{
    Error, EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId,
    SubscriberOps,
};
use log::debug;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::Interrupt;
use crate::queue::Broken;
use crate::virtio::{Queues, Ready, VirtioDevice};

/// What an event is about: a queue's kick, or one of these.
const STOP: u32 = u32::MAX;
const FILES: u32 = 1 << 16;

/// The thread of a live device. It ends with this.
pub struct Worker {
    thread: Option<JoinHandle<Stopped>>,
    stop: EventFd,
}

/// What a thread owned when it ended.
type Stopped = io::Result<(Box<dyn VirtioDevice>, Queues)>;

impl Worker {
    /// Makes `device` live: from now on it serves `queues`, of which queue `i` is notified by `kicks[i]`.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left. The device is lost.
    pub fn start(
        device: Box<dyn VirtioDevice>,
        queues: Queues,
        kicks: Arc<[EventFd]>,
        interrupt: Arc<Interrupt>,
    ) -> io::Result<Worker> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let name = format!("{:?}", device.id()).to_lowercase();
        let live = Live {
            device,
            queues,
            kicks,
            interrupt,
            stopped: false,
        };
        let events = live.events(&stop);
        let mut manager = EventManager::new().map_err(io::Error::other)?;
        let id = manager.add_subscriber(live);
        let mut ops = manager.event_ops(id).map_err(io::Error::other)?;
        for event in events {
            match ops.add(event) {
                // A file that cannot be waited for is always ready, and its queue's kick will try it.
                Err(Error::Epoll(errno)) if errno.errno() == libc::EPERM => {}
                other => other.map_err(io::Error::other)?,
            }
        }
        let thread = Builder::new()
            .name(name)
            .spawn(move || serve(&mut manager, id))?;
        Ok(Worker {
            thread: Some(thread),
            stop,
        })
    }

    /// Ends the thread and returns what it owned. When this returns nothing touches the queues any more.
    ///
    /// # Errors
    /// The thread has died; the device is lost.
    pub fn stop(mut self) -> io::Result<(Box<dyn VirtioDevice>, Queues)> {
        self.end()
            .unwrap_or_else(|| Err(io::Error::other("the device's thread has ended before")))
    }

    /// Ends the thread, unless that was done.
    fn end(&mut self) -> Option<Stopped> {
        let thread = self.thread.take()?;
        // Cannot fail: the counter is far from its limit.
        let _ = self.stop.write(1);
        let died = |_| Err(io::Error::other("the device's thread panicked"));
        Some(thread.join().unwrap_or_else(died))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread: until stopped, wait and dispatch.
fn serve(manager: &mut EventManager<Live>, id: SubscriberId) -> Stopped {
    loop {
        manager.run().map_err(io::Error::other)?;
        if manager.subscriber_mut(id).is_ok_and(|live| live.stopped) {
            let live = manager.remove_subscriber(id).map_err(io::Error::other)?;
            return Ok((live.device, live.queues));
        }
    }
}

struct Live {
    device: Box<dyn VirtioDevice>,
    queues: Queues,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    stopped: bool,
}

impl Live {
    /// Everything to wait for. All is edge-triggered: a kick is news even while the last one's count stands in the
    /// eventfd, which so never needs to be read.
    fn events(&self, stop: &EventFd) -> Vec<Events> {
        let edge = EventSet::EDGE_TRIGGERED;
        let kicks = self.kicks.iter().zip(0..);
        let kicks = kicks.map(|(kick, index)| Events::with_data(kick, index, EventSet::IN | edge));
        let files = self.device.files().into_iter().zip(FILES..);
        let files = files.map(|((file, ready), data)| match ready {
            Ready::Read => Events::with_data(&file, data, EventSet::IN | edge),
            Ready::Write => Events::with_data(&file, data, EventSet::OUT | edge),
        });
        let stop = Events::with_data(stop, STOP, EventSet::IN);
        kicks.chain(files).chain([stop]).collect()
    }

    fn dispatch(&mut self, data: u32) -> Result<(), Broken> {
        let index = data as usize;
        if data < FILES {
            self.device.kicked(index, &mut self.queues)?;
        } else {
            self.device
                .ready(index - FILES as usize, &mut self.queues)?;
        }
        for (index, kick) in self.kicks.iter().enumerate() {
            if self
                .queues
                .get(index)
                .is_some_and(|queue| queue.is_unfinished())
            {
                // Cannot fail short of 2^64 kicks; the driver's next one would do as well.
                let _ = kick.write(1);
            }
        }
        Ok(())
    }
}

impl MutEventSubscriber for Live {
    fn init(&mut self, _: &mut EventOps<'_>) {}

    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        if events.data() == STOP {
            self.stopped = true;
        } else if !self.interrupt.is_reset_needed()
            && let Err(broken) = self.dispatch(events.data())
        {
            debug!("{:?}: {broken}", self.device.id());
            self.interrupt.needs_reset();
        }
    }
}
