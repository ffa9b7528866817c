//! The session with a back end: its connection, and the state that a new connection is brought to.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{Level, debug, log, warn};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, InFlight, Peer, Places};
use super::kernel::Kernel;
use super::kind::{Config, Kind};
use super::{Command, Control, Error, Source};
use crate::memory::Memory;
use crate::sync::{event, lock};
use crate::virtio::queue::{self, QueueConfig};
use crate::virtio::{ConfigSpace, Notify, features};

/// The data of an epoll event: a queue's index, for its call, or one of these.
const WAKE: u64 = u64::MAX;
const HANG_UP: u64 = u64::MAX - 1;

/// The most events per epoll_wait(2).
const BATCH: usize = 8;

/// Milliseconds between attempts to reach a back end that has gone.
const RETRY: u16 = 500;

/// The most losses of a back end that are warned of. A guest may be able to make it end.
const WARNINGS: u32 = 10;

/// What a VM gives.
pub(super) struct Setup {
    memory: Memory,
    kicks: Arc<[EventFd]>,
    notify: Arc<dyn Notify>,
}

impl Setup {
    pub(super) fn new(memory: Memory, kicks: Arc<[EventFd]>, notify: Arc<dyn Notify>) -> Self {
        Setup { memory, kicks, notify }
    }
}

/// The state of a device that another process serves. Only its thread uses it.
pub(super) struct Session {
    name: String,
    kind: Arc<Kind>,
    source: Source,
    control: Arc<Control>,
    epoll: Epoll,
    /// With these the back end interrupts.
    calls: Vec<EventFd>,
    connection: Option<Box<dyn Peer>>,
    /// How often the connection was lost.
    losses: u32,
    /// Whether a failed attempt to connect again was logged.
    complained: bool,
    /// When the next attempt is due.
    retry: Instant,
    setup: Option<Setup>,
    /// The features that the driver has accepted.
    accepted: u64,
    /// The queues of a live or paused device.
    queues: Vec<QueueConfig>,
    live: bool,
    /// The requests that the back end has begun, if it notes them.
    in_flight: Arc<Mutex<Option<InFlight>>>,
}

impl Session {
    pub(super) fn new(
        name: &str,
        kind: Arc<Kind>,
        source: Source,
        control: Arc<Control>,
    ) -> io::Result<Session> {
        let calls: io::Result<Vec<_>> = kind.queues.iter().map(|_| event()).collect();
        let (calls, epoll) = (calls?, Epoll::new()?);
        let mut watched: Vec<_> = calls.iter().zip(0..).collect();
        watched.push((&control.wake, WAKE));
        for (event, data) in watched {
            let event_set = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let interest = EpollEvent::new(event_set, data);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        Ok(Session {
            name: name.to_owned(),
            kind,
            source,
            control,
            epoll,
            calls,
            connection: None,
            losses: 0,
            complained: false,
            retry: Instant::now(),
            setup: None,
            accepted: 0,
            queues: Vec::new(),
            live: false,
            in_flight: Arc::default(),
        })
    }

    /// The thread's loop.
    pub(super) fn serve(mut self, commands: &Receiver<Command>) {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let timeout = if self.is_awaited() { RETRY.into() } else { -1 };
            let count = match self.epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return warn!("{}: cannot wait for its back end: {error}", self.name),
                Ok(count) => count,
            };
            if self.control.ended.load(Ordering::SeqCst) {
                return;
            }
            for event in events.iter().take(count) {
                match event.data() {
                    WAKE => {}
                    HANG_UP => self.lose("it has closed the connection"),
                    call => self.used(call),
                }
            }
            while let Ok(command) = commands.try_recv() {
                command(&mut self);
            }
            if self.is_awaited() && self.retry <= Instant::now() {
                self.connect_again();
            }
        }
    }

    /// Interrupts the driver of a live device, for the queue of event `call`.
    fn used(&self, call: u64) {
        if let (Some(setup), Ok(index)) = (&self.setup, u16::try_from(call))
            && self.live
        {
            setup.notify.used(index);
        }
    }

    /// Whether a VM needs a connection that is lost, and there may be one again.
    fn is_awaited(&self) -> bool {
        let again = matches!(self.source, Source::Again(_));
        self.connection.is_none() && again && self.setup.is_some()
    }

    /// The level of the messages about a connection that is lost, or back.
    fn level(&self, level: Level) -> Level {
        match self.losses {
            ..=WARNINGS => level,
            _ => Level::Debug,
        }
    }

    /// Connects for the first time. Returns the features that the device offers, and its
    /// configuration space.
    pub(super) fn connect(&mut self) -> Result<(u64, Arc<dyn ConfigSpace>), Error> {
        let begin = |stream: io::Result<UnixStream>| self.begin(stream.map_err(Error::Connect)?);
        let mut connection = match &self.source {
            Source::Again(connect) => begin(connect()),
            Source::Once(stream) => begin(stream.try_clone()),
            Source::Kernel(tap) => {
                let kernel = tap.try_clone().and_then(Kernel::open);
                Ok(Box::new(kernel.map_err(Error::Connect)?) as Box<dyn Peer>)
            }
        }?;
        let config: Arc<dyn ConfigSpace> = match &self.kind.config {
            Config::Own(config) => Arc::clone(config),
            &Config::Asked(len) => Arc::new(connection.config(len)?),
        };
        let offered = connection.offered() & self.passed() | self.kind.added;
        self.connection = Some(connection);
        Ok((offered, config))
    }

    /// The features that are the back end's to offer.
    fn passed(&self) -> u64 {
        self.kind.passed | queue::FEATURES | features::RING_RESET
    }

    /// Watches a new connection, and negotiates.
    fn begin(&self, stream: UnixStream) -> Result<Box<dyn Peer>, Error> {
        let watched = stream.try_clone().map_err(Error::Host)?;
        let hang_up = EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let (operation, interest) = (ControlOperation::Add, EpollEvent::new(hang_up, HANG_UP));
        let added = self.epoll.ctl(operation, watched.as_raw_fd(), interest);
        added.map_err(Error::Host)?;
        *lock(&self.control.stream) = Some(watched);
        let connection = Connection::new(stream, &self.kind, Arc::clone(&self.in_flight))?;
        Ok(Box::new(connection))
    }

    /// Reaches the back end once more, and brings it to the state of the lost one.
    fn connect_again(&mut self) {
        let Source::Again(connect) = &self.source else {
            return;
        };
        let connected = connect()
            .map_err(Error::Connect)
            .and_then(|stream| self.begin(stream));
        let accepted = self.accepted & self.passed();
        let connected = connected.and_then(|connection| match accepted & !connection.offered() {
            0 => Ok(connection),
            missing => Err(Error::Less(missing)),
        });
        self.retry = Instant::now() + Duration::from_millis(RETRY.into());
        match connected {
            Ok(connection) => {
                log!(
                    self.level(Level::Info),
                    "{}: its back end is back",
                    self.name
                );
                self.complained = false;
                self.connection = Some(connection);
                // What it had not taken or announced when it ended.
                self.apply(true);
                self.set_link(true);
            }
            Err(error) => {
                self.close();
                let level = match error {
                    Error::Connect(_) => Level::Debug,
                    _ => self.level(Level::Warn),
                };
                if !std::mem::replace(&mut self.complained, true) {
                    log!(
                        level,
                        "{}: its new back end is not used: {error}",
                        self.name
                    );
                }
            }
        }
    }

    fn close(&mut self) {
        self.connection = None;
        if let Some(stream) = lock(&self.control.stream).take() {
            // A duplicate in another process would keep it in the set.
            let nothing = EpollEvent::default();
            let _ = self
                .epoll
                .ctl(ControlOperation::Delete, stream.as_raw_fd(), nothing);
        }
    }

    /// Gives the connection up.
    fn lose(&mut self, why: impl std::fmt::Display) {
        if self.connection.is_none() {
            return;
        }
        self.close();
        self.losses = self.losses.saturating_add(1);
        self.retry = Instant::now() + Duration::from_millis(RETRY.into());
        let (name, level) = (&self.name, self.level(Level::Warn));
        match &self.source {
            Source::Again(_) => {
                log!(
                    level,
                    "{name}: its back end is gone ({why}): waiting for another"
                );
            }
            Source::Once(_) | Source::Kernel(_) => {
                warn!("{name}: its back end is gone ({why}): the device does not work any more");
                if let Some(setup) = self.setup.as_ref().filter(|_| self.live) {
                    setup.notify.needs_reset();
                }
            }
        }
        self.set_link(false);
    }

    fn set_link(&self, up: bool) {
        if let Some(link) = &self.kind.link {
            link.set(up);
        }
    }

    /// Talks to the back end, if there is one. After an error there is none.
    fn talk(&mut self, talk: impl FnOnce(&mut dyn Peer) -> Result<(), Error>) {
        if let Some(connection) = &mut self.connection
            && let Err(error) = talk(&mut **connection)
        {
            self.lose(error);
        }
    }

    pub(super) fn attach(&mut self, setup: Setup) {
        self.setup = Some(setup);
        if let Some(connection) = &mut self.connection {
            connection.unshare();
        }
    }

    pub(super) fn detach(&mut self) {
        self.reset();
        self.setup = None;
    }

    pub(super) fn accept(&mut self, features: u64) {
        self.accepted = features;
    }

    pub(super) fn start(&mut self, queues: Vec<QueueConfig>) {
        self.queues = queues;
        self.live = true;
        self.apply(false);
    }

    pub(super) fn pause(&mut self) {
        if self.live {
            self.live = false;
            (0..self.queues.len()).for_each(|index| self.stop_queue(index));
        }
    }

    pub(super) fn resume(&mut self) {
        if !self.live && !self.queues.is_empty() {
            self.live = true;
            match &self.connection {
                Some(connection) if connection.is_shared() => {
                    for index in 0..self.queues.len() {
                        self.start_queue(index);
                        // Of a request that ended while the queue stopped.
                        self.used(index as u64);
                    }
                }
                // The back end was restarted meanwhile.
                _ => self.apply(true),
            }
        }
    }

    pub(super) fn reset(&mut self) {
        self.pause();
        self.queues.clear();
        self.accepted = 0;
        lock(&self.in_flight).take();
    }

    pub(super) fn replace_queue(&mut self, index: usize, config: QueueConfig) {
        if self.live {
            self.stop_queue(index);
            if let Some(queue) = self.queues.get_mut(index) {
                *queue = config;
            }
            self.start_queue(index);
        }
    }

    /// Tells a back end that knows nothing about the driver what it needs, and starts the queues.
    /// With `again`, each continues where the used index says.
    fn apply(&mut self, again: bool) {
        let Some(setup) = self.setup.as_ref().filter(|_| self.live) else {
            return;
        };
        let memory = setup.memory.clone();
        let accepted = self.accepted & self.passed();
        let kind = Arc::clone(&self.kind);
        self.talk(|connection| connection.prepare(accepted, &memory, &kind));
        for index in 0..self.queues.len() {
            if again
                && let Some(used) = self.used_index(index)
                && let Some(queue) = self.queues.get_mut(index)
            {
                queue.resume = Some(used);
            }
            self.start_queue(index);
            if again {
                if let Some(kick) = self.setup.as_ref().and_then(|it| it.kicks.get(index)) {
                    // Cannot fail: the counter is far from its limit.
                    let _ = kick.write(1);
                }
                self.used(index as u64);
            }
        }
    }

    /// The used index in the ring of queue `index`.
    fn used_index(&self, index: usize) -> Option<u16> {
        let (setup, queue) = (self.setup.as_ref()?, self.queues.get(index)?);
        let mut used = [0; 2];
        // After the flags.
        let address = queue.device.checked_add(2)?;
        setup.memory.read(address, &mut used)?;
        Some(u16::from_le_bytes(used))
    }

    /// Stops queue `index`, and notes where to continue. When this returns, the back end does not
    /// access it.
    fn stop_queue(&mut self, index: usize) {
        let ready = self.queues.get(index).is_some_and(|queue| queue.ready);
        if !ready {
            return;
        }
        let mut base = None;
        self.talk(|connection| {
            base = Some(connection.stop(index)?);
            Ok(())
        });
        let base = base.and_then(|base| u16::try_from(base).ok());
        let base = base.or_else(|| self.used_index(index));
        if let Some(queue) = self.queues.get_mut(index) {
            queue.resume = base;
        }
    }

    /// Starts queue `index` if it is ready.
    fn start_queue(&mut self, index: usize) {
        let (Some(setup), Some(config)) = (&self.setup, self.queues.get(index)) else {
            return;
        };
        if !config.ready {
            return;
        }
        let checked = config.activate(&setup.memory, self.accepted, Arc::clone(&setup.notify));
        let places = checked.ok().and_then(|_| Places::of(&setup.memory, config));
        let Some(places) = places else {
            debug!("{}: queue {index} is invalid", self.name);
            setup.notify.needs_reset();
            return;
        };
        let call = self.calls.get(index).map(EventFd::try_clone);
        let kick = setup.kicks.get(index).map(EventFd::try_clone);
        let (Some(Ok(call)), Some(Ok(kick))) = (call, kick) else {
            return self.lose("no descriptor is left");
        };
        let config = config.clone();
        self.talk(|connection| connection.start(index, &config, &places, [&call, &kick]));
    }
}
