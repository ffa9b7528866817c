//! The life cycle of a device, the same for every transport.
//!
//! ```text
//!            activate, start              pause
//!   Offered ────────────────▶ Live ◀────────────────▶ Paused
//!      ▲                       │      resume, start      │
//!      └────────── reset ──────┴─────────────────────────┘
//!
//!   Lost: the device is stuck in a host call, and the transport does not wait for it
//! ```
//!
//! Once `pause` or `reset` has returned, nothing accesses the queues or the guest's memory. Both
//! wait for at most one request: the one in progress.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::error;
use vmm_sys_util::eventfd::EventFd;

use super::queue::Queue;
use super::worker::{Inline, Served, Stuck, Worker};
use super::{Notify, QueueError, Queues, VirtioDevice};
use crate::memory::Memory;

/// A device's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Initial: the driver may negotiate.
    Offered,
    /// It serves its queues.
    Live,
    /// It serves nothing, and keeps its queues for `resume`.
    Paused,
    /// A request did not end in time. A reset does not help.
    Lost,
}

/// A device with its thread, owned by one transport.
pub(crate) struct Lifecycle {
    worker: Worker,
    state: State,
}

impl Lifecycle {
    /// Offers `device`. Kick `i` notifies its queue `i`; `notify` notifies the driver. `timeout`
    /// is the longest that a call waits for the request in progress; `None` is no limit.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
        timeout: Option<Duration>,
    ) -> io::Result<Lifecycle> {
        Ok(Lifecycle {
            worker: Worker::start(device, kicks, notify, timeout)?,
            state: State::Offered,
        })
    }

    /// A handle that serves queues in vCPU threads.
    pub(crate) fn inline(&self) -> Inline {
        self.worker.inline()
    }

    /// Whether the device serves its queues.
    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the device is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Calls `change` with exclusive access to the device; `None` if it is lost, now or before.
    fn with<T>(&mut self, change: impl FnOnce(&mut Served) -> T) -> Option<T> {
        if self.state == State::Lost {
            return None;
        }
        match self.worker.with(|served, _| change(served)) {
            Ok(result) => Some(result),
            Err(Stuck) => {
                error!("a request of the device does not finish: the device is lost");
                self.state = State::Lost;
                None
            }
        }
    }

    /// Activates an offered device: the driver has accepted `features`, and its buffers are in
    /// `memory`.
    pub(crate) fn activate(&mut self, features: u64, memory: &Memory) {
        if self.state == State::Offered {
            self.with(|served| served.device.activate(features, memory));
        }
    }

    /// Makes an offered or paused device serve `queues` only.
    pub(crate) fn start(&mut self, queues: Queues) {
        if matches!(self.state, State::Offered | State::Paused) {
            self.state = State::Live;
            self.with(|served| {
                served.start(queues);
            });
        }
    }

    /// Replaces the kicks and `notify` of a device that is not live.
    ///
    /// # Errors
    /// The host has no file descriptor left, or epoll does not support one of the kicks.
    pub(crate) fn connect(
        &mut self,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
    ) -> io::Result<()> {
        let connected = self.worker.with(|served, epoll| {
            served.notify = notify;
            served.set_kicks(epoll, kicks)
        });
        connected.unwrap_or_else(|Stuck| Err(io::Error::other("the device is lost")))
    }

    /// Pauses a live device. Its queues stay as they are.
    pub(crate) fn pause(&mut self) {
        if self.state == State::Live {
            self.state = State::Paused;
            self.with(|served| served.running = false);
        }
    }

    /// Resumes a paused device.
    pub(crate) fn resume(&mut self) {
        if self.state == State::Paused {
            self.state = State::Live;
            self.with(|served| served.running = true);
        }
    }

    /// Takes the queues of a device that is not live. It then has none.
    pub(crate) fn take_queues(&mut self) -> Queues {
        let taken = self.with(|served| std::mem::take(&mut served.queues));
        taken.unwrap_or_default()
    }

    /// Replaces queue `index` of a live or paused device by another queue, or by none. The state of
    /// the old queue is discarded; the other queues continue.
    pub(crate) fn replace_queue(&mut self, index: usize, queue: Option<Queue>) {
        if matches!(self.state, State::Live | State::Paused) {
            self.with(|served| {
                served.queues.set(index, queue);
                served.device.queue_reset(index);
            });
        }
    }

    /// Marks the device as needing a reset, because the driver has set up an invalid ring.
    pub(crate) fn set_broken(&mut self, why: &QueueError) {
        self.with(|served| served.set_broken(why));
    }

    /// Resets the device to its initial state.
    pub(crate) fn reset(&mut self) {
        self.with(Served::reset);
        if self.state != State::Lost {
            self.state = State::Offered;
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "lifecycle_test.rs"]
mod tests;
