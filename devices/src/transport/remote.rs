//! The vhost-user front end: a device whose queues another process serves, its back end.
//!
//! ```text
//!   this process                                         back end, in another process
//!   ┌───────────────────────────┐  messages, descriptors ┌──────────────────────────┐
//!   │ Mmio ─ Attached ─ Session │───────────────────────▶│ virtiofsd, passt, …      │
//!   │ vCPUs ────────────────────┼─ kick (ioeventfd) ────▶│                          │
//!   │ Interrupt ◀─ Session ◀────┼─ call (eventfd) ───────│                          │
//!   └─────────────┬─────────────┘                        └────────────┬─────────────┘
//!                 └────────── guest memory: a file, mapped by both ───┘
//! ```
//!
//! A kick goes from KVM to the back end. Interrupts take one hop, through the session's thread, as a
//! virtio-mmio device has a status register that must be set first.
//!
//! That thread also sends all messages. A vCPU that needs one done waits for it, but no longer than
//! [`ANSWER_TIMEOUT`]: then the connection is closed. So a back end that does not answer, or lies,
//! harms its own device only. It maps all of the guest's memory, though, and can write anything
//! there.
//!
//! A back end that was restarted is connected again, and continues each queue at its used index, or
//! with the requests that it had noted in the shared record of those in flight.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use vhost::vhost_user as protocol;
use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use crate::memory::Memory;
use crate::net::Link;
use crate::net::tap::Tap;
use crate::sync::{event, lock};
use crate::virtio::queue::QueueConfig;
use crate::virtio::{ConfigSpace, Notify};

mod connection;
pub mod kernel;
mod kind;
mod session;

pub use kind::{Config, Kind};
use session::{Session, Setup};

/// The longest time that a back end may take for a message. It finishes the requests in progress
/// before it confirms that a queue has stopped.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closed connection may take to be noticed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a program that was just started may take for its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How to reach a back end.
pub enum Source {
    /// It ends with this connection.
    Once(UnixStream),
    /// The host's kernel, which moves the frames of this interface.
    Kernel(Tap),
    /// Connects, without waiting, each time.
    Again(Box<dyn Fn() -> io::Result<UnixStream> + Send>),
}

/// Why a back end cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// Its socket cannot be reached.
    #[error("cannot connect to it")]
    Connect(#[source] io::Error),
    /// It did not answer, or wrongly.
    #[error("it does not speak the vhost-user protocol: {0}")]
    Protocol(protocol::Error),
    /// The same, of an operation of the crate `vhost`.
    #[error("it does not speak the vhost-user protocol: {0}")]
    Vhost(vhost::Error),
    /// It did not answer in time.
    #[error("it has not answered for {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// It lacks something that every driver or this front end needs.
    #[error("it lacks {0}")]
    Lacks(&'static str),
    /// The host's kernel refused a request.
    #[error("the kernel's vhost-net refused a request")]
    Kernel(#[source] io::Error),
    /// After it was restarted, it does not offer what the driver has accepted before.
    #[error("it no longer offers the features {0:#x}, which the guest uses")]
    Less(u64),
    /// This host has no thread or descriptor left.
    #[error("cannot start its thread")]
    Host(#[source] io::Error),
}

impl From<vhost::Error> for Error {
    fn from(error: vhost::Error) -> Self {
        match error {
            vhost::Error::VhostUserProtocol(error) => Error::Protocol(error),
            error => Error::Vhost(error),
        }
    }
}

type Command = Box<dyn FnOnce(&mut Session) + Send>;

/// The connection to a back end. It outlives a VM, and is attached to one VM after another.
pub struct Remote {
    kind: Arc<Kind>,
    features: u64,
    config: Arc<dyn ConfigSpace>,
    caller: Caller,
    thread: Option<JoinHandle<()>>,
}

/// Has commands done by the thread of the session.
#[derive(Clone)]
struct Caller {
    commands: Sender<Command>,
    control: Arc<Control>,
}

/// What other threads use of the session.
struct Control {
    /// Wakes its thread, to look for commands and at `ended`.
    wake: EventFd,
    ended: AtomicBool,
    /// Whether a command was given up.
    stuck: AtomicBool,
    /// The connection, for shutting it down.
    stream: Mutex<Option<UnixStream>>,
}

impl Remote {
    /// Connects to the back end of a device. `name` is the device's name in messages.
    ///
    /// # Errors
    /// The back end cannot be reached or used.
    pub fn connect(name: &str, kind: Kind, source: Source) -> Result<Remote, Error> {
        let control = Arc::new(Control {
            wake: event().map_err(Error::Host)?,
            ended: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            stream: Mutex::new(None),
        });
        let timeout = match &source {
            Source::Once(_) => START_TIMEOUT,
            Source::Again(_) | Source::Kernel(_) => ANSWER_TIMEOUT,
        };
        let kind = Arc::new(kind);
        let (commands, todo) = mpsc::channel();
        let session = Session::new(name, Arc::clone(&kind), source, Arc::clone(&control));
        let session = session.map_err(Error::Host)?;
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || session.serve(&todo))
            .map_err(Error::Host)?;
        let mut remote = Remote {
            kind,
            features: 0,
            config: Arc::new(Vec::new()),
            caller: Caller { commands, control },
            thread: Some(thread),
        };
        let connected = remote.caller.call_within(timeout, Session::connect);
        (remote.features, remote.config) = connected.unwrap_or(Err(Error::Silent))?;
        Ok(remote)
    }

    /// The link of a network card: it is down while there is no back end.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.kind.link.clone()
    }

    /// What the device is.
    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The feature bits that it offers, with those of the rings.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// Its configuration space.
    pub(crate) fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::clone(&self.config)
    }

    /// Gives it to a VM, until the returned value is dropped.
    pub(crate) fn attach(
        self: &Arc<Self>,
        memory: Memory,
        kicks: Arc<[EventFd]>,
        notify: Arc<dyn Notify>,
    ) -> Attached {
        let setup = Setup::new(memory, kicks, Arc::clone(&notify));
        self.caller.call(|session| session.attach(setup));
        Attached { remote: Arc::clone(self), notify }
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Remote({:?})", self.kind.id)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let control = &self.caller.control;
        control.ended.store(true, Ordering::SeqCst);
        control.shut_down();
        // Cannot fail: the counter is far from its limit.
        let _ = control.wake.write(1);
        // A thread that is stuck is detached.
        if let Some(thread) = self.thread.take()
            && !control.stuck.load(Ordering::SeqCst)
        {
            // The panic hook has reported any panic.
            let _ = thread.join();
        }
    }
}

impl Control {
    fn shut_down(&self) {
        if let Some(stream) = &*lock(&self.stream) {
            // Fails if the other side has closed it.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Caller {
    /// Has `work` done and returns its result; `None` if it takes too long.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> T + Send + 'static,
    ) -> Option<T> {
        self.call_within(ANSWER_TIMEOUT, work)
    }

    fn call_within<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Session) -> T + Send + 'static,
    ) -> Option<T> {
        if self.control.stuck.load(Ordering::SeqCst) {
            return None;
        }
        let (done, result) = mpsc::sync_channel(1);
        let command = move |session: &mut Session| {
            let _ = done.send(work(session));
        };
        self.commands.send(Box::new(command)).ok()?;
        // Cannot fail: the counter is far from its limit.
        let _ = self.control.wake.write(1);
        if let Ok(result) = result.recv_timeout(timeout) {
            return Some(result);
        }
        self.control.shut_down();
        let late = result.recv_timeout(CLOSE_TIMEOUT).ok();
        self.control.stuck.store(late.is_none(), Ordering::SeqCst);
        late
    }
}

/// The device of a [`Remote`], as a VM has it.
pub(crate) struct Attached {
    remote: Arc<Remote>,
    notify: Arc<dyn Notify>,
}

impl Attached {
    fn call(&self, work: impl FnOnce(&mut Session) + Send + 'static) {
        if self.remote.caller.call(work).is_none() {
            self.notify.needs_reset();
        }
    }
}

impl Backend for Attached {
    fn activate(&mut self, features: u64) {
        self.call(move |session| session.accept(features));
    }

    fn start(&mut self, queues: &[QueueConfig]) {
        let queues = queues.to_vec();
        self.call(|session| session.start(queues));
    }

    fn replace_queue(&mut self, index: usize, config: &QueueConfig) {
        let config = config.clone();
        self.call(move |session| session.replace_queue(index, config));
    }

    fn pause(&mut self) {
        self.call(Session::pause);
    }

    fn resume(&mut self) {
        self.call(Session::resume);
    }

    fn reset(&mut self) {
        self.call(Session::reset);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.remote.caller.call(Session::detach);
    }
}
