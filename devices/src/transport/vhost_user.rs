//! The vhost-user transport: a device served on a socket, to a front end that runs the guest (QEMU, or any other).
//!
//! ```text
//!   front end, in another process                        this process
//!   ┌──────────────────────────┐  messages, descriptors  ┌──────────────────────────────┐
//!   │ registers, configuration │────────────────────────▶│ messages ─ Backend ─ rings   │
//!   │ vCPUs                    │  kick (eventfd)         │               │ QueueConfig  │
//!   │                          │────────────────────────▶│            worker            │
//!   │                          │◀────────────────────────│          block, rng          │
//!   └────────────┬─────────────┘  call (eventfd)         └──────────────┬───────────────┘
//!                └──────────── guest memory: files, mapped by both ─────┘
//! ```
//!
//! What virtio-mmio learns from registers comes as messages here
//! ([the protocol](https://qemu-project.gitlab.io/qemu/interop/vhost-user.html)); what they fill in, and what then runs, is
//! the same. A ring runs while it has memory, addresses and a kick, and is enabled. A message that changes one that runs
//! stops the worker, changes it, and starts the worker again where it left off: so nothing on a request's way is shared
//! or locked.
//!
//! The front end is believed as little as a guest: what cannot be ends the connection, and nothing else. Where a
//! ring lies is the guest's choice: one that cannot be is stopped, and its error told. One thing remains:
//! a front end that shortens a memory file after it was mapped ends this process by SIGBUS, unless the file is sealed
//! against that (QEMU's memory-backend-memfd is).

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, error};
use thiserror::Error;
use vhost::vhost_user::{self as protocol, BackendReqHandler, VhostUserVirtioFeatures};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::Interrupt;
use crate::virtio::queue;
use crate::virtio::worker::Worker;
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice, features};

mod messages;
mod ring;
mod table;

use ring::{Errors, Ring};
use table::Table;

/// Why a front end is no longer served.
#[derive(Debug, Error)]
pub enum Error {
    /// It asked for what cannot be, or broke off in the middle. The device is as new.
    #[error("the front end broke the protocol: {0}")]
    Protocol(protocol::Error),
    /// The device's thread could not be started, or died: nobody can be served any more.
    #[error("the device is lost")]
    Lost,
}

/// A device that front ends may use, one after another.
pub struct VhostUser {
    backend: Arc<Mutex<Backend>>,
}

impl VhostUser {
    /// Serves `device`.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        VhostUser {
            backend: Arc::new(Mutex::new(Backend::new(device))),
        }
    }

    /// Serves the front end at the other end of `stream` until it disconnects. Then nothing of its memory is in use, and
    /// the device is as new.
    ///
    /// Another thread ends this early by shutting the stream down. Gives the number of messages: one who only looked whether
    /// somebody listens here has sent none.
    ///
    /// # Errors
    /// The front end broke the protocol and was disconnected, or the device is lost.
    pub fn serve(&self, stream: UnixStream) -> Result<usize, Error> {
        let mut messages = BackendReqHandler::from_stream(stream, Arc::clone(&self.backend));
        let mut count = 0;
        let ended = loop {
            match messages.handle_request() {
                Ok(()) => count += 1,
                Err(protocol::Error::Disconnected | protocol::Error::SocketBroken(_)) => {
                    break Ok(count);
                }
                Err(error) => break Err(Error::Protocol(error)),
            }
        };
        // Nothing behind the lock panics; were it to, all of it is set anew here.
        let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend.disconnected();
        match backend.device {
            State::Lost => Err(Error::Lost),
            _ => ended,
        }
    }
}

/// One connection's side of the protocol, behind [`messages`].
struct Backend {
    id: DeviceId,
    offered: u64,
    config: Arc<dyn ConfigSpace>,
    /// The features that the front end accepted, once it has.
    accepted: Option<u64>,
    table: Table,
    rings: Vec<Ring>,
    device: State,
}

enum State {
    /// As new.
    Offered(Box<dyn VirtioDevice>),
    /// Between two workers: the driver's features are known to it.
    Paused(Box<dyn VirtioDevice>),
    Live(Worker),
    /// The host could not run it.
    Lost,
}

/// A message was refused: the connection ends.
fn refused(why: impl std::fmt::Display) -> protocol::Error {
    debug!("vhost-user: {why}");
    protocol::Error::InvalidParam
}

impl Backend {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        Backend {
            id: device.id(),
            offered: device.features()
                | queue::FEATURES
                | features::VERSION_1
                | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            config: device.config(),
            accepted: None,
            table: Table::default(),
            rings: device.queues().iter().map(|_| Ring::new()).collect(),
            device: State::Offered(device),
        }
    }

    /// Changes something that all rings depend on.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Self) -> protocol::Result<()>,
    ) -> protocol::Result<()> {
        self.pause();
        change(self)?;
        self.resume()
    }

    /// Changes ring `index`. Others that run are left alone unless this one runs, or is to run now.
    fn change_ring(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Ring) -> protocol::Result<()>,
    ) -> protocol::Result<()> {
        let runs = |backend: &Self| backend.ring(index).map(|ring| backend.runs(ring));
        if runs(self)? {
            self.pause();
        }
        let count = self.rings.len();
        let ring = self.rings.get_mut(index as usize);
        change(ring.ok_or_else(|| absent(index, count))?)?;
        if runs(self)? {
            self.pause();
        }
        self.resume()
    }

    fn ring(&self, index: u32) -> protocol::Result<&Ring> {
        let ring = self.rings.get(index as usize);
        ring.ok_or_else(|| absent(index, self.rings.len()))
    }

    /// Whether all that a ring needs is there. After each message, those are the ones that the worker has.
    fn runs(&self, ring: &Ring) -> bool {
        let protocol_features = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.accepted.is_some_and(|accepted| {
            // Who does not know the message that enables them has them enabled from the start.
            ring.is_set_up() && (ring.enabled || accepted & protocol_features == 0)
        }) && !self.table.is_empty()
    }

    /// Takes device and queues back from the worker: when this returns nothing touches the guest's memory.
    fn pause(&mut self) {
        let state = std::mem::replace(&mut self.device, State::Lost);
        let State::Live(worker) = state else {
            self.device = state;
            return;
        };
        match worker.stop() {
            Ok((device, mut queues)) => {
                for (index, ring) in self.rings.iter_mut().enumerate() {
                    if let Some(queue) = queues.get(index) {
                        ring.base = queue.next_available();
                    }
                }
                self.device = State::Paused(device);
            }
            Err(error) => error!("the {:?} device is lost: {error}", self.id),
        }
    }

    /// Starts a worker if there is none, and rings for it.
    fn resume(&mut self) -> protocol::Result<()> {
        if matches!(self.device, State::Live(_)) || !self.rings.iter().any(|ring| self.runs(ring)) {
            return Ok(());
        }
        let accepted = self.accepted.unwrap_or(0);
        let memory = self.table.memory()?;
        let runs: Vec<_> = self.rings.iter().map(|ring| self.runs(ring)).collect();
        let mut queues = Vec::new();
        for (ring, runs) in self.rings.iter_mut().zip(runs) {
            queues.push(match runs {
                true => ring.activate(&self.table, &memory, accepted)?,
                false => None,
            });
        }
        if queues.iter().all(Option::is_none) {
            return Ok(());
        }
        let queues = Queues::new(queues);
        let host = |_| protocol::Error::BackendInternalError;
        let kicks: std::io::Result<Vec<_>> = self
            .rings
            .iter()
            .map(|ring| match &ring.kick {
                Some(kick) => kick.try_clone(),
                None => EventFd::new(EFD_NONBLOCK),
            })
            .collect();
        let kicks = kicks.map_err(host)?.into();
        let errors = Errors::of(&self.rings).map_err(host)?;
        let errors = Arc::new(Interrupt::unlatched(Box::new(errors)));
        let device = match std::mem::replace(&mut self.device, State::Lost) {
            State::Offered(mut device) => {
                device.activate(accepted);
                device
            }
            State::Paused(device) => device,
            State::Live(_) | State::Lost => return Err(protocol::Error::BackendInternalError),
        };
        let worker = Worker::start(device, queues, kicks, errors).map_err(|error| {
            error!("cannot start the {:?} device's thread: {error}", self.id);
            protocol::Error::BackendInternalError
        })?;
        self.device = State::Live(worker);
        Ok(())
    }

    /// Stops every ring and resets the device. The front end's memory stays known.
    fn reset(&mut self) {
        self.forget();
        for ring in &mut self.rings {
            ring.enabled = false;
            ring.kick = None;
        }
    }

    /// Has the device forget what its driver began.
    fn forget(&mut self) {
        self.pause();
        self.device = match std::mem::replace(&mut self.device, State::Lost) {
            State::Offered(mut device) | State::Paused(mut device) => {
                device.reset();
                State::Offered(device)
            }
            other => other,
        };
    }

    fn disconnected(&mut self) {
        self.reset();
        self.accepted = None;
        self.table = Table::default();
        for ring in &mut self.rings {
            *ring = Ring::new();
        }
    }
}

fn absent(index: u32, count: usize) -> protocol::Error {
    refused(format_args!("ring {index} of {count}"))
}
