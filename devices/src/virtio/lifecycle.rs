//! From a device that is offered to one that serves its driver, and back: the same for every
//! transport.
//!
//! ```text
//!            activate, start              pause
//!   Offered ────────────────▶ Live ◀────────────────▶ Paused
//!      ▲                       │      resume, start      │
//!      └────────── reset ──────┴─────────────────────────┘
//!
//!   Lost: the device is stuck in a request of its host, and the transport does not wait for it
//! ```
//!
//! Once `pause` or `reset` has returned, nothing touches the queues or the guest's memory. Both
//! wait for at most the one request in hand.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::error;
use vmm_sys_util::eventfd::EventFd;

use super::queue::Queue;
use super::worker::{Inline, Served, Stuck, Worker};
use super::{Notify, QueueError, Queues, VirtioDevice};
use crate::memory::Memory;

/// Where a device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As new: its driver may negotiate.
    Offered,
    /// It serves its queues.
    Live,
    /// It has been live, and goes on where it was.
    Paused,
    /// It does not let go of a request. A reset does not help.
    Lost,
}

/// A device with its thread, in the hands of one transport.
pub(crate) struct Lifecycle {
    worker: Worker,
    state: State,
}

impl Lifecycle {
    /// `device`, offered. Kick `i` notifies its queue `i`, and the driver is notified by `notify`.
    /// `patience` bounds how long any call waits for the request in hand; `None` does not.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
        patience: Option<Duration>,
    ) -> io::Result<Lifecycle> {
        Ok(Lifecycle {
            worker: Worker::start(device, kicks, notify, patience)?,
            state: State::Offered,
        })
    }

    /// A way to serve queues in the threads of vCPUs.
    pub(crate) fn inline(&self) -> Inline {
        self.worker.inline()
    }

    /// Whether the device serves its queues.
    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the device was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Changes the device while nothing else happens to it; `None` if it is lost, now or before.
    fn with<T>(&mut self, change: impl FnOnce(&mut Served) -> T) -> Option<T> {
        if self.state == State::Lost {
            return None;
        }
        match self.worker.with(|served, _| change(served)) {
            Ok(result) => Some(result),
            Err(Stuck) => {
                error!("a device does not finish its request: it is lost");
                self.state = State::Lost;
                None
            }
        }
    }

    /// The driver has accepted `features`, and its buffers are in `memory`. Of an offered device
    /// only.
    pub(crate) fn activate(&mut self, features: u64, memory: &Memory) {
        if self.state == State::Offered {
            self.with(|served| served.device.activate(features, memory));
        }
    }

    /// Makes an offered or paused device serve `queues`, and those alone.
    pub(crate) fn start(&mut self, queues: Queues) {
        if matches!(self.state, State::Offered | State::Paused) {
            self.state = State::Live;
            self.with(|served| {
                served.start(queues);
            });
        }
    }

    /// From here on kick `i` is queue `i`'s, and `notify` notifies the driver. Of a device that is
    /// not live.
    ///
    /// # Errors
    /// The host has no file descriptor left, or one of the kicks cannot be waited for.
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

    /// Makes a live device serve nothing; its queues stay as they are.
    pub(crate) fn pause(&mut self) {
        if self.state == State::Live {
            self.state = State::Paused;
            self.with(|served| served.running = false);
        }
    }

    /// Makes a paused device go on.
    pub(crate) fn resume(&mut self) {
        if self.state == State::Paused {
            self.state = State::Live;
            self.with(|served| served.running = true);
        }
    }

    /// Takes the queues of a device that is not live: it has none then.
    pub(crate) fn take_queues(&mut self) -> Queues {
        let taken = self.with(|served| std::mem::take(&mut served.queues));
        taken.unwrap_or_default()
    }

    /// Gives a device that is live or paused another queue `index`, or none: what its driver began
    /// with the old one is forgotten. The other queues go on where they were.
    pub(crate) fn replace_queue(&mut self, index: usize, queue: Option<Queue>) {
        if matches!(self.state, State::Live | State::Paused) {
            self.with(|served| {
                served.queues.set(index, queue);
                served.device.queue_reset(index);
            });
        }
    }

    /// The driver has set up a ring that cannot be: the device needs a reset.
    pub(crate) fn break_off(&mut self, why: &QueueError) {
        self.with(|served| served.break_off(why));
    }

    /// Makes the device as new.
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
