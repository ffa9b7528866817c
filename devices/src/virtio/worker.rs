//! A device's thread: it waits for kicks and files, and calls the device.
//!
//! The thread lives as long as the device. Device and queues are behind a lock that is held for one
//! event at a time, nearly always by that thread. There are two others who take it:
//!
//! - a vCPU that serves a queue where it notifies it, unless somebody is at work
//!   ([`Inline::try_serve`]);
//! - the transport, to start, pause or reset the device ([`Worker::with`]). It first sets the stop
//!   flag, which every queue looks at before each chain. So it waits for at most one request.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use log::{debug, error};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::stop::Stop;
use super::{Notify, QueueError, Queues, Ready, VirtioDevice};
use crate::sync::{event, lock};

/// What an event is about: a queue's kick, or one of these.
const WAKE: u64 = u64::MAX;
const FILES: u64 = 1 << 16;

/// Events that are taken from the kernel at once.
const BATCH: usize = 16;

/// How often a lock that must not be waited for without end is tried.
const RETRY: Duration = Duration::from_millis(1);

/// A device, what it serves, and the thread that does it. All end with this.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pub(super) thread: Option<JoinHandle<()>>,
    /// How long [`with`](Self::with) waits; `None` is as long as it takes.
    patience: Option<Duration>,
}

impl Worker {
    /// Starts the thread of `device`, which serves nothing yet. `notify` is the transport's.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub(super) fn start(
        device: Box<dyn VirtioDevice>,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
        patience: Option<Duration>,
    ) -> io::Result<Worker> {
        let name = format!("{:?}", device.id()).to_lowercase();
        let shared = Arc::new(Shared {
            served: Mutex::new(Served {
                device,
                queues: Queues::default(),
                kicks,
                armed: false,
                notify,
                running: false,
                broken: false,
            }),
            turn: Mutex::new(()),
            stop: Stop::default(),
            ended: AtomicBool::new(false),
            epoll: Epoll::new()?,
            wake: event()?,
        });
        let wake = shared.wake.as_raw_fd();
        let epoll = &shared.epoll;
        epoll.ctl(ControlOperation::Add, wake, edge(EventSet::IN, WAKE))?;
        let its = Arc::clone(&shared);
        let thread = Builder::new().name(name).spawn(move || {
            if let Err(error) = its.serve() {
                let served = lock(&its.served);
                error!(
                    "the {:?} device's thread ended: {error}",
                    served.device.id()
                );
                served.notify.needs_reset();
            }
        })?;
        Ok(Worker {
            shared,
            thread: Some(thread),
            patience,
        })
    }

    /// A way to serve queues in another thread.
    pub(super) fn inline(&self) -> Inline {
        Inline(Arc::clone(&self.shared))
    }

    /// Calls `change` while nobody else has device and queues: the request in hand is finished
    /// first, and no other begun. If the device runs afterwards, it looks at all its queues and
    /// files anew.
    ///
    /// # Errors
    /// [`Stuck`]: the request in hand has not ended in the time that this worker was given.
    pub(super) fn with<T>(
        &self,
        change: impl FnOnce(&mut Served, &Epoll) -> T,
    ) -> Result<T, Stuck> {
        let shared = &*self.shared;
        let _turn = lock(&shared.turn);
        shared.stop.set(true);
        let mut served = shared.lock_within(self.patience).inspect_err(|Stuck| {
            // The stop flag stays, and the thread ends: if the request ever ends, it was the last.
            shared.ended.store(true, Ordering::SeqCst);
        })?;
        shared.stop.set(false);
        let result = change(&mut served, &shared.epoll);
        if served.running {
            served.queues.set_stop(&shared.stop);
            served.arm(&shared.epoll);
            if served.queues.unfinished().next().is_some() {
                // Cannot fail: the counter is far from its limit.
                let _ = shared.wake.write(1);
            }
        }
        Ok(result)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.stop.set(true);
        // Cannot fail: the counter is far from its limit.
        let _ = self.shared.wake.write(1);
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A thread that is stuck in a request is left behind: what it uses, it keeps alive.
        if self.patience.is_none() || self.shared.lock_within(self.patience).is_ok() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The request in hand takes longer than its transport can wait.
#[derive(Debug)]
pub(super) struct Stuck;

/// Serves queues of a device where they are notified, in the thread of a vCPU.
pub(crate) struct Inline(Arc<Shared>);

impl Inline {
    /// Serves queue `index` here and now, as the device's thread would after its kick. Returns
    /// whether it did: not while that thread, or another in here, is at work, nor while the device
    /// is not live. The device's thread goes on with what is left unfinished, or stalled.
    pub(crate) fn try_serve(&self, index: usize) -> bool {
        let shared = &*self.0;
        let Ok(data @ ..FILES) = u64::try_from(index) else {
            return false;
        };
        if shared.stop.is_set() {
            return false;
        }
        let Ok(mut served) = shared.served.try_lock() else {
            return false;
        };
        if served.running && served.handle(data) {
            // Cannot fail: the counter is far from its limit.
            let _ = shared.wake.write(1);
        }
        served.running
    }
}

/// What the thread and those who control it share.
struct Shared {
    served: Mutex<Served>,
    /// Held by whoever set `stop`, until it is done: what the thread waits for then.
    turn: Mutex<()>,
    stop: Stop,
    ended: AtomicBool,
    epoll: Epoll,
    /// Wakes the thread to look at `ended`, and at queues that another thread left unfinished.
    wake: EventFd,
}

impl Shared {
    /// What the thread does: until ended, wait and dispatch.
    ///
    /// By epoll itself: event-manager looks each event's file and subscriber up in hash tables, a
    /// third of what a request cost us.
    fn serve(&self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let mut unfinished = false;
        loop {
            let timeout = if unfinished { 0 } else { -1 };
            let count = match self.epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                other => other?,
            };
            if self.ended.load(Ordering::SeqCst) {
                return Ok(());
            }
            let mut go_on = unfinished;
            for event in events.iter().take(count) {
                match event.data() {
                    WAKE => go_on = true,
                    data => unfinished = self.lock().handle(data),
                }
            }
            if go_on {
                unfinished = self.lock().go_on();
            }
        }
    }

    /// The lock for the device's own thread, which gives way to whoever waits for it.
    fn lock(&self) -> MutexGuard<'_, Served> {
        if self.stop.is_set() {
            self.give_way();
        }
        lock(&self.served)
    }

    #[cold]
    fn give_way(&self) {
        drop(lock(&self.turn));
    }

    fn lock_within(&self, patience: Option<Duration>) -> Result<MutexGuard<'_, Served>, Stuck> {
        let Some(patience) = patience else {
            return Ok(lock(&self.served));
        };
        let began = Instant::now();
        loop {
            match self.served.try_lock() {
                Ok(served) => return Ok(served),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => {
                    thread::sleep(RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(Stuck),
            }
        }
    }
}

impl Ready {
    fn set(self) -> EventSet {
        match self {
            Ready::Read => EventSet::IN,
            Ready::Write => EventSet::OUT,
        }
    }
}

/// A device and its queues, behind the lock.
pub(super) struct Served {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) queues: Queues,
    kicks: Arc<[EventFd]>,
    /// Whether the thread waits for the kicks and the device's files: from the first start on.
    armed: bool,
    pub(super) notify: Arc<dyn Notify>,
    /// Whether the device serves its queues. Events that come while it does not are dropped:
    /// everything is looked at anew when it begins to.
    pub(super) running: bool,
    /// A ring is broken: the device does nothing more until it is reset.
    broken: bool,
}

impl Served {
    /// Waits for `kicks` instead of those before: kick `i` notifies queue `i`.
    pub(super) fn set_kicks(&mut self, epoll: &Epoll, kicks: Arc<[EventFd]>) -> io::Result<()> {
        if self.armed {
            for kick in &*self.kicks {
                // A duplicate elsewhere would keep it in the set after we close ours.
                let event = EpollEvent::default();
                epoll.ctl(ControlOperation::Delete, kick.as_raw_fd(), event)?;
            }
            self.kicks = Arc::new([]);
            for (kick, data) in kicks.iter().zip(0..) {
                let event = edge(EventSet::IN, data);
                epoll.ctl(ControlOperation::Add, kick.as_raw_fd(), event)?;
            }
        }
        self.kicks = kicks;
        Ok(())
    }

    /// Has every file and kick that is ready now reported, once more if it was before.
    fn arm(&mut self, epoll: &Epoll) {
        let again = std::mem::replace(&mut self.armed, true);
        let operation = || match again {
            false => ControlOperation::Add,
            true => ControlOperation::Modify,
        };
        let files = self.device.files();
        let files = files.iter().zip(FILES..);
        let files = files.map(|((file, ready), data)| (file.as_raw_fd(), ready.set(), data));
        let kicks = self.kicks.iter().zip(0..);
        let kicks = kicks.map(|(kick, data)| (kick.as_raw_fd(), EventSet::IN, data));
        for (file, set, data) in kicks.chain(files) {
            match epoll.ctl(operation(), file, edge(set, data)) {
                Ok(()) => {}
                // A file that cannot be waited for is always ready; its queue's kick will try it.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOENT)) => {
                    debug!("{:?}: not waited for: {error}", self.device.id());
                }
                Err(error) => {
                    let id = self.device.id();
                    error!("the {id:?} device cannot wait for its driver or a file: {error}");
                    self.notify.needs_reset();
                }
            }
        }
    }

    /// The device cannot go on with what its driver set up.
    #[cold]
    pub(super) fn break_off(&mut self, why: &QueueError) {
        debug!("{:?}: {why}", self.device.id());
        self.broken = true;
        self.notify.needs_reset();
    }

    /// The device serves `queues` from now on, and those alone.
    pub(super) fn start(&mut self, queues: Queues) {
        self.queues = queues;
        self.running = true;
        // What broke was a ring that is gone.
        self.broken = false;
    }

    /// The device is as new.
    pub(super) fn reset(&mut self) {
        self.running = false;
        self.broken = false;
        self.queues = Queues::default();
        self.device.reset();
    }

    /// Handles an event. Returns whether a queue is left unfinished.
    fn handle(&mut self, data: u64) -> bool {
        if !self.running || self.broken {
            return false;
        }
        // Neither is ever more than a hundred above its base.
        let index = |base| usize::try_from(data - base).unwrap_or(usize::MAX);
        let result = if data < FILES {
            self.device.process_queue(index(0), &mut self.queues)
        } else {
            self.device.handle_event(index(FILES), &mut self.queues)
        };
        match result {
            Ok(()) => self.queues.unfinished().next().is_some(),
            Err(why) => {
                self.break_off(&why);
                false
            }
        }
    }

    /// Goes on with each queue that is unfinished. Returns whether one still is.
    fn go_on(&mut self) -> bool {
        let unfinished: Vec<_> = self.queues.unfinished().collect();
        let mut left = false;
        for index in unfinished {
            left = self.handle(index);
        }
        left
    }
}

/// Everything is edge-triggered: a kick is news even while the last one's count stands in the
/// eventfd, which so never needs to be read.
fn edge(set: EventSet, data: u64) -> EpollEvent {
    EpollEvent::new(set | EventSet::EDGE_TRIGGERED, data)
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "worker_test.rs"]
mod tests;
