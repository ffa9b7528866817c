//! A device's thread: it waits for kicks and files, and calls the device.
//!
//! The thread lives as long as the device. A lock protects the device and its queues. It is held
//! for one event at a time, nearly always by that thread. Two others take it:
//!
//! - a vCPU that serves a queue inline when it notifies it, unless the lock is held
//!   ([`Inline::try_serve`]);
//! - the transport, to start, pause or reset the device ([`Worker::with`]). It first sets the stop
//!   flag, which every queue checks before each chain. So it waits for at most one request.

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

/// The data of an epoll event: a queue's index, for its kick, or one of these.
const WAKE: u64 = u64::MAX;
const FILES: u64 = 1 << 16;

/// The most events per epoll_wait(2).
const BATCH: usize = 16;

/// The interval between attempts to take a lock with a time limit.
const RETRY: Duration = Duration::from_millis(1);

/// A device, its queues and its thread. Dropping this ends the thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pub(super) thread: Option<JoinHandle<()>>,
    /// The longest wait of [`with`](Self::with); `None` is no limit.
    timeout: Option<Duration>,
}

impl Worker {
    /// Starts the thread of `device`, which serves nothing yet. `notify` notifies the driver.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub(super) fn start(
        device: Box<dyn VirtioDevice>,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
        timeout: Option<Duration>,
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
        Ok(Worker { shared, thread: Some(thread), timeout })
    }

    /// A handle that serves queues in another thread.
    pub(super) fn inline(&self) -> Inline {
        Inline(Arc::clone(&self.shared))
    }

    /// Calls `change` with exclusive access to the device and its queues. The request in progress
    /// ends first, and no other starts. If the device runs afterwards, it checks all its queues and
    /// files again.
    ///
    /// # Errors
    /// [`Stuck`]: the request in progress did not end in time.
    pub(super) fn with<T>(
        &self,
        change: impl FnOnce(&mut Served, &Epoll) -> T,
    ) -> Result<T, Stuck> {
        let shared = &*self.shared;
        let _turn = lock(&shared.turn);
        shared.stop.set(true);
        let mut served = shared.lock_within(self.timeout).inspect_err(|Stuck| {
            // The stop flag stays set, and the thread ends once the request ends.
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
        // A thread that is stuck in a request is detached. It keeps everything that it uses alive.
        if self.timeout.is_none() || self.shared.lock_within(self.timeout).is_ok() {
            // The panic hook has reported any panic.
            let _ = thread.join();
        }
    }
}

/// The request in progress takes longer than the transport waits.
#[derive(Debug)]
pub(super) struct Stuck;

/// Serves queues of a device in the thread of the vCPU that notifies them.
pub(crate) struct Inline(Arc<Shared>);

impl Inline {
    /// Serves queue `index` now, as the device's thread would after a kick. Returns false, without
    /// serving it, if another thread holds the device or the device is not live. The device's
    /// thread continues with a queue that is left unfinished or stalled.
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

/// The state that the thread shares with its controllers.
struct Shared {
    served: Mutex<Served>,
    /// Held by the thread that set `stop` until it is done. The device's thread waits for it.
    turn: Mutex<()>,
    stop: Stop,
    ended: AtomicBool,
    epoll: Epoll,
    /// Wakes the thread to check `ended`, and queues that another thread left unfinished.
    wake: EventFd,
}

impl Shared {
    /// The thread's loop: waits for events and dispatches them until `ended`.
    ///
    /// This uses epoll directly. The crate event-manager looks each event up in hash tables, which
    /// was a third of the cost of a request.
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
            let mut resume = unfinished;
            for event in events.iter().take(count) {
                match event.data() {
                    WAKE => resume = true,
                    data => unfinished = self.lock().handle(data),
                }
            }
            if resume {
                unfinished = self.lock().serve_unfinished();
            }
        }
    }

    /// Takes the lock in the device's thread, which gives way to a thread in [`Worker::with`].
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

    fn lock_within(&self, timeout: Option<Duration>) -> Result<MutexGuard<'_, Served>, Stuck> {
        let Some(timeout) = timeout else {
            return Ok(lock(&self.served));
        };
        let began = Instant::now();
        loop {
            match self.served.try_lock() {
                Ok(served) => return Ok(served),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if began.elapsed() < timeout => {
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

/// A device and its queues, protected by the lock.
pub(super) struct Served {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) queues: Queues,
    kicks: Arc<[EventFd]>,
    /// Whether the kicks and the device's files are in the epoll set: from the first start on.
    armed: bool,
    pub(super) notify: Arc<dyn Notify>,
    /// Whether the device serves its queues. Events are dropped while it does not; when it starts,
    /// everything is checked again.
    pub(super) running: bool,
    /// A ring is invalid: the device serves nothing until it is reset.
    broken: bool,
}

impl Served {
    /// Replaces the kicks: kick `i` notifies queue `i`.
    pub(super) fn set_kicks(&mut self, epoll: &Epoll, kicks: Arc<[EventFd]>) -> io::Result<()> {
        if self.armed {
            for kick in &*self.kicks {
                // A duplicate in another process would keep it in the set after we close ours.
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

    /// Makes epoll report every kick and file that is ready now, even if it was reported before.
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
                // epoll does not support regular files, which are always ready: the device uses
                // them on the next kick.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOENT)) => {
                    debug!("{:?}: cannot be watched: {error}", self.device.id());
                }
                Err(error) => {
                    let id = self.device.id();
                    error!("the {id:?} device cannot wait for its driver or a file: {error}");
                    self.notify.needs_reset();
                }
            }
        }
    }

    /// Marks the device as needing a reset, because a ring is invalid.
    #[cold]
    pub(super) fn set_broken(&mut self, why: &QueueError) {
        debug!("{:?}: {why}", self.device.id());
        self.broken = true;
        self.notify.needs_reset();
    }

    /// Makes the device serve `queues` only.
    pub(super) fn start(&mut self, queues: Queues) {
        self.queues = queues;
        self.running = true;
        // The invalid ring was replaced.
        self.broken = false;
    }

    /// Resets the device to its initial state.
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
        // Neither is more than a hundred above its base.
        let index = |base| usize::try_from(data - base).unwrap_or(usize::MAX);
        let result = if data < FILES {
            self.device.process_queue(index(0), &mut self.queues)
        } else {
            self.device.handle_event(index(FILES), &mut self.queues)
        };
        match result {
            Ok(()) => self.queues.unfinished().next().is_some(),
            Err(why) => {
                self.set_broken(&why);
                false
            }
        }
    }

    /// Serves each unfinished queue. Returns whether one still is.
    fn serve_unfinished(&mut self) -> bool {
        let unfinished: Vec<_> = self.queues.unfinished().collect();
        let mut left = false;
        for index in unfinished {
            left = self.handle(index);
        }
        left
    }
}

/// All events are edge-triggered: a kick is reported even if the eventfd's counter is not 0, so the
/// eventfd need not be read.
fn edge(set: EventSet, data: u64) -> EpollEvent {
    EpollEvent::new(set | EventSet::EDGE_TRIGGERED, data)
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "worker_test.rs"]
mod tests;
