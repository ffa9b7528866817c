//! How a run ends: by the guest, by the user, by a signal, or by an error. Whichever is first counts.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;
use crate::machine::End;
use crate::signals::{self, HEARD};

/// The end of a run, once it is known.
pub(super) struct Ending {
    /// For the vCPU loops to look at.
    pub(super) stop: AtomicBool,
    first: Mutex<Option<Result<End, Error>>>,
    event: EventFd,
    signals: SignalFd,
}

impl Ending {
    /// From here on SIGTERM, SIGINT and SIGHUP, unless they are ignored, end the run instead of the process. To be called before any other thread
    /// exists, so that all of them inherit that.
    pub(super) fn new() -> Result<Ending, Error> {
        let mut signals = signals::block()?;
        HEARD.into_iter().for_each(|signal| signals.add(signal));
        let ending = || -> nix::Result<Ending> {
            Ok(Ending {
                stop: AtomicBool::new(false),
                first: Mutex::new(None),
                event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?,
                signals: SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?,
            })
        };
        ending().map_err(|errno| Error::Host {
            what: "wait for signals".to_owned(),
            source: errno.into(),
        })
    }

    /// Ends the run, unless it has ended already.
    pub(super) fn set(&self, end: Result<End, Error>) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A reboot is no end: what comes while the guest restarts must not be forgotten with it.
        if matches!(*first, None | Some(Ok(End::Reboot))) {
            *first = Some(end);
        }
        self.stop.store(true, Ordering::SeqCst);
        // Cannot fail: the counter is far from its limit.
        let _ = self.event.write(1);
    }

    /// Waits for the end; calls `heard` for each signal by which a user speaks to us.
    pub(super) fn wait(&self, heard: impl Fn(Signal)) {
        if let Err(source) = self.try_wait(heard) {
            self.set(Err(Error::Host {
                what: "wait for the guest".to_owned(),
                source,
            }));
        }
    }

    fn try_wait(&self, heard: impl Fn(Signal)) -> io::Result<()> {
        let mut manager = EventManager::new_with_capacity(2).map_err(io::Error::other)?;
        let id = manager.add_subscriber(Waiter {
            ending: self,
            heard,
            outcome: None,
        });
        loop {
            let waiter = manager.subscriber_mut(id).map_err(io::Error::other)?;
            if let Some(outcome) = waiter.outcome.take() {
                return outcome;
            }
            manager.run().map_err(io::Error::other)?;
        }
    }

    /// Takes one signal.
    fn hear(&self, heard: impl Fn(Signal)) -> nix::Result<()> {
        if let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match HEARD.into_iter().find(|known| *known as i32 == number) {
                Some(signal) => heard(signal),
                None => self.set(Ok(End::Signal(number))),
            }
        }
        Ok(())
    }

    /// Goes on after a reboot; false if the run has really ended.
    pub(super) fn forget_reboot(&self) -> bool {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let again = matches!(*first, Some(Ok(End::Reboot)));
        if again {
            *first = None;
            self.stop.store(false, Ordering::SeqCst);
            // There is something to read, since `set` was called.
            let _ = self.event.read();
        }
        again
    }

    /// The end that was first, once there is one.
    pub(super) fn take(&self) -> Result<End, Error> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = || Err(Error::Internal("the run ended without a reason".to_owned()));
        first.take().unwrap_or_else(nothing)
    }
}

/// The main thread while the guest runs.
struct Waiter<'a, H> {
    ending: &'a Ending,
    heard: H,
    /// Once the waiting is over.
    outcome: Option<io::Result<()>>,
}

impl<H> Waiter<'_, H> {
    const END: u32 = 0;
    const SIGNAL: u32 = 1;
}

impl<H: Fn(Signal)> MutEventSubscriber for Waiter<'_, H> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let Ending { event, signals, .. } = self.ending;
        let end = Events::with_data(event, Self::END, EventSet::IN);
        let signal = Events::with_data(signals, Self::SIGNAL, EventSet::IN);
        if let Err(error) = ops.add(end).and_then(|()| ops.add(signal)) {
            self.outcome = Some(Err(io::Error::other(error)));
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        if events.data() == Self::END {
            self.outcome = Some(Ok(()));
        } else if let Err(errno) = self.ending.hear(&self.heard) {
            self.outcome = Some(Err(errno.into()));
        }
    }
}
