//! Input of the control loop: requests from signals and from any thread, in one queue.
//!
//! ```text
//!   SIGTERM, SIGUSR1, … ── signalfd ──┐
//!   Ctrl-a x, other threads ── queue ─┼─▶ main thread: Controls::wait, Control::next
//!   end of the guest ── eventfd ──────┘
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::Error;
use crate::host::terminal::Key;
use crate::machine::End;
use crate::signals::{self, CONTINUED, HEARD, POWER_OFF, REPORT, RESIZED, SUSPEND, SignalFd};

/// A request to the main thread while a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Stop the vCPUs and the guest's clock.
    Pause,
    /// Resume a paused guest.
    Resume,
    /// Pause the guest and stop this process, for a shell's job control. Once continued, resume.
    Suspend,
    /// This process was continued after a stop: take the terminal again.
    Continued,
    /// Read the sizes of the disks' files and of the balloon again.
    Resize,
    /// Write the statistics of the run so far.
    Report,
    /// Ask the guest to power off. If that is not possible, or takes too long, end the run.
    PowerOff(End),
    /// End the run.
    Shutdown(End),
}

/// The sending side, shared by all threads.
#[derive(Debug)]
pub struct Control {
    requests: Mutex<VecDeque<Request>>,
    event: OwnedFd,
}

impl Control {
    /// An empty queue.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new() -> Result<Control, Error> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = event.map_err(|errno| cannot_wait(errno.into()))?;
        Ok(Control { requests: Mutex::default(), event })
    }

    /// Queues `request` and wakes the main thread.
    pub fn request(&self, request: Request) {
        devices::lock(&self.requests).push_back(request);
        self.wake();
    }

    /// Queues the request of a key that the user typed.
    pub fn typed(&self, key: Key) {
        self.request(match key {
            Key::PowerOff => Request::PowerOff(End::Left),
            Key::Leave => Request::Shutdown(End::Left),
        });
    }

    /// Wakes the main thread without a request.
    pub fn wake(&self) {
        // Fails only if the counter is full, and then the main thread wakes up anyway.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Makes its descriptor unreadable until the next request or wake-up. Call it before
    /// [`Control::next`].
    pub(crate) fn clear(&self) {
        // Fails if there is nothing to read, which is fine.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Takes the oldest request.
    pub fn next(&self) -> Option<Request> {
        devices::lock(&self.requests).pop_front()
    }
}

/// Readable after a request or a wake-up.
impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The receiving side, owned by the main thread.
pub struct Controls {
    control: Arc<Control>,
    /// When to end the run, and how.
    deadline: Option<(Instant, End)>,
    manager: EventManager<Source>,
    source: event_manager::SubscriberId,
}

impl Controls {
    /// Waits for `control` and for signals. From here on SIGTERM, SIGINT and SIGHUP, unless
    /// ignored, are requests and do not end the process. Call it before any other thread exists:
    /// all threads inherit the mask.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(control: Arc<Control>) -> Result<Controls, Error> {
        signals::block(&[SUSPEND])?;
        let signals = [&signals::ending()[..], &HEARD, &[SUSPEND, CONTINUED]].concat();
        let signals = SignalFd::new(&signals).map_err(cannot_wait)?;
        let mut manager = EventManager::new_with_capacity(2).map_err(manager_failed)?;
        let source =
            manager.add_subscriber(Source { control: Arc::clone(&control), signals, failed: None });
        Ok(Controls { control, deadline: None, manager, source })
    }

    /// From `at` on, [`Controls::wait`] queues a request to end the run.
    pub fn end_at(&mut self, at: Instant, end: End) {
        self.deadline = Some((at, end));
    }

    /// Waits for a request, a signal or a wake-up. Signals are queued as requests.
    ///
    /// # Errors
    /// A system call failed.
    pub fn wait(&mut self) -> Result<(), Error> {
        let left = self.deadline.map_or(-1, |(at, _)| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up, so that it does not wake up early again and again.
            i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
        });
        self.manager
            .run_with_timeout(left)
            .map_err(manager_failed)?;
        if let Some((_, end)) = self.deadline.take_if(|(at, _)| *at <= Instant::now()) {
            self.control.request(Request::Shutdown(end));
        }
        let source = self.manager.subscriber_mut(self.source);
        match source.map_err(manager_failed)?.failed.take() {
            Some(error) => Err(cannot_wait(error)),
            None => Ok(()),
        }
    }
}

/// The eventfd of the queue and the signalfd.
struct Source {
    control: Arc<Control>,
    signals: SignalFd,
    failed: Option<io::Error>,
}

impl Source {
    const EVENT: u32 = 0;
    const SIGNAL: u32 = 1;

    fn read_signals(&self) -> io::Result<()> {
        while let Some(number) = self.signals.take()? {
            self.control.request(match number {
                RESIZED => Request::Resize,
                REPORT => Request::Report,
                SUSPEND => Request::Suspend,
                CONTINUED => Request::Continued,
                POWER_OFF => Request::PowerOff(End::Signal(number)),
                _ => Request::Shutdown(End::Signal(number)),
            });
        }
        Ok(())
    }
}

impl MutEventSubscriber for Source {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let event = Events::with_data(&self.control.event, Self::EVENT, EventSet::IN);
        let signal = Events::with_data(&self.signals, Self::SIGNAL, EventSet::IN);
        if let Err(error) = ops.add(event).and_then(|()| ops.add(signal)) {
            self.failed = Some(io::Error::other(error));
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        if events.data() == Self::EVENT {
            self.control.clear();
        } else if let Err(error) = self.read_signals() {
            self.failed = Some(error);
        }
    }
}

fn manager_failed(error: event_manager::Error) -> Error {
    cannot_wait(io::Error::other(error))
}

fn cannot_wait(source: io::Error) -> Error {
    Error::host("wait for the guest")(source)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_come_in_the_order_in_which_they_were_made() {
        let control = Arc::new(Control::new().unwrap());
        let mut controls = Controls::new(Arc::clone(&control)).unwrap();
        let sender = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            sender.request(Request::Pause);
            sender.request(Request::Shutdown(End::Left));
        });
        let mut next = || loop {
            if let Some(request) = control.next() {
                return request;
            }
            controls.wait().unwrap();
        };
        assert_eq!(next(), Request::Pause);
        assert_eq!(next(), Request::Shutdown(End::Left));
        thread.join().unwrap();
    }

    #[test]
    fn a_deadline_ends_the_run_once() {
        let control = Arc::new(Control::new().unwrap());
        let mut controls = Controls::new(Arc::clone(&control)).unwrap();
        controls.end_at(Instant::now() + Duration::from_millis(20), End::Left);
        let request = loop {
            controls.wait().unwrap();
            if let Some(request) = control.next() {
                break request;
            }
        };
        assert_eq!(request, Request::Shutdown(End::Left));
        assert!(controls.deadline.is_none() && control.next().is_none());
    }

    #[test]
    fn a_wake_up_without_a_request_ends_the_wait() {
        let control = Arc::new(Control::new().unwrap());
        let mut controls = Controls::new(Arc::clone(&control)).unwrap();
        control.wake();
        controls.wait().unwrap();
        assert_eq!(control.next(), None);
    }
}
