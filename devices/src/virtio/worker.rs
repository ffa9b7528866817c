//! A live device's thread: it waits for kicks and files, and calls the device.
//!
//! Whoever calls the device has the lock of device and queues, one event long. Nearly always that is the device's own thread. A
//! thread that brings a kick may serve the queue itself, unless another is at work ([`Worker::try_serve`]).

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use log::debug;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::Interrupt;
use crate::virtio::error::QueueError;
use crate::virtio::{Queues, Ready, VirtioDevice};

/// What an event is about: a queue's kick, or one of these.
const STOP: u64 = u64::MAX;
const FILES: u64 = 1 << 16;

/// Events that are taken from the kernel at once.
const BATCH: usize = 16;

/// A live device and its thread. Both end with this.
pub struct Worker {
    live: Arc<Mutex<Live>>,
    thread: Thread,
}

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
        };
        let epoll = Epoll::new()?;
        for (file, event) in live.events(&stop) {
            match epoll.ctl(ControlOperation::Add, file, event) {
                // A file that cannot be waited for is always ready, and its queue's kick will try it.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                other => other?,
            }
        }
        let live = Arc::new(Mutex::new(live));
        let its = Arc::clone(&live);
        let handle = Builder::new()
            .name(name)
            .spawn(move || serve(&its, &epoll))?;
        let thread = Thread {
            handle: Some(handle),
            stop,
        };
        Ok(Worker { live, thread })
    }

    /// Serves queue `index` here and now, as the device's thread would after its kick. Says whether it did: not while that
    /// thread, or another in here, is at work. What is left unfinished, or held back, is the thread's to go on with.
    pub fn try_serve(&self, index: usize) -> bool {
        match (u64::try_from(index), self.live.try_lock()) {
            (Ok(data @ ..FILES), Ok(mut live)) => {
                live.handle(data);
                true
            }
            _ => false,
        }
    }

    /// Ends the thread and returns device and queues. When this returns nothing touches the queues any more.
    ///
    /// # Errors
    /// The thread has died; the device is lost.
    pub fn stop(self) -> io::Result<(Box<dyn VirtioDevice>, Queues)> {
        let Worker { live, mut thread } = self;
        thread.end()?;
        // The other one was the thread's.
        let live = Arc::into_inner(live)
            .ok_or_else(|| io::Error::other("the device's thread has not ended"))?;
        let live = live.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((live.device, live.queues))
    }
}

/// The thread itself, ended when dropped.
struct Thread {
    handle: Option<JoinHandle<io::Result<()>>>,
    stop: EventFd,
}

impl Thread {
    /// Ends it, unless that was done.
    fn end(&mut self) -> io::Result<()> {
        let Some(handle) = self.handle.take() else {
            return Ok(());
        };
        // Cannot fail: the counter is far from its limit.
        let _ = self.stop.write(1);
        let died = |_| Err(io::Error::other("the device's thread panicked"));
        handle.join().unwrap_or_else(died)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Nobody asked for the device.
        let _ = self.end();
    }
}

/// What the thread does: until stopped, wait and dispatch.
///
/// By epoll itself: event-manager looks each event's file and subscriber up in hash tables, a third of what a request cost us.
fn serve(live: &Mutex<Live>, epoll: &Epoll) -> io::Result<()> {
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            other => other?,
        };
        for event in events.iter().take(count) {
            match event.data() {
                STOP => return Ok(()),
                data => locked(live).handle(data),
            }
        }
    }
}

fn locked(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    // Devices do not panic on what a guest does; one that did is as good as its queues are.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Live {
    device: Box<dyn VirtioDevice>,
    queues: Queues,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
}

impl Live {
    /// Everything to wait for. All is edge-triggered: a kick is news even while the last one's count stands in the
    /// eventfd, which so never needs to be read.
    fn events(&self, stop: &EventFd) -> Vec<(RawFd, EpollEvent)> {
        let event = |file: &dyn AsRawFd, data, set| {
            let event = EpollEvent::new(set | EventSet::EDGE_TRIGGERED, data);
            (file.as_raw_fd(), event)
        };
        let kicks = self.kicks.iter().zip(0..);
        let kicks = kicks.map(|(kick, index)| event(kick, index, EventSet::IN));
        let files = self.device.files().into_iter().zip(FILES..);
        let files = files.map(|((file, ready), data)| match ready {
            Ready::Read => event(&file, data, EventSet::IN),
            Ready::Write => event(&file, data, EventSet::OUT),
        });
        let stop = event(stop, STOP, EventSet::IN);
        kicks.chain(files).chain([stop]).collect()
    }

    /// An event has come. A device whose ring is broken hears of no more.
    fn handle(&mut self, data: u64) {
        if !self.interrupt.is_reset_needed()
            && let Err(broken) = self.dispatch(data)
        {
            debug!("{:?}: {broken}", self.device.id());
            self.interrupt.needs_reset();
        }
    }

    fn dispatch(&mut self, data: u64) -> Result<(), QueueError> {
        // Neither is ever more than a hundred above its base.
        let index = |base| usize::try_from(data - base).unwrap_or(usize::MAX);
        if data < FILES {
            self.device.process_queue(index(0), &mut self.queues)?;
        } else {
            self.device.handle_event(index(FILES), &mut self.queues)?;
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

#[cfg(test)]
#[cfg(not(loom))]
#[path = "worker_test.rs"]
mod tests;
