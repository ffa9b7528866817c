//! The vhost-user transport: a device served on a socket, to a front end that runs the guest (QEMU, or any other).
//!
//! ```text
//!   front end, in another process                        this process
//!   ┌──────────────────────────┐  messages, descriptors  ┌──────────────────────────────┐
//!   │ registers, configuration │────────────────────────▶│ messages ─ Backend ─ rings   │
//!   │ vCPUs                    │  kick (eventfd)         │               │ QueueConfig  │
//!   │                          │────────────────────────▶│            worker            │
//!   │                          │◀────────────────────────│            block             │
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

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::debug;
use thiserror::Error;
use vhost::vhost_user::{self as protocol, BackendReqHandler, VhostUserVirtioFeatures};
use vmm_sys_util::eventfd::EventFd;

use crate::sync::{event, lock};
use crate::virtio::lifecycle::Lifecycle;
use crate::virtio::queue;
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice, features};

mod messages;
mod ring;
mod table;

use ring::{Errors, Ring, Silent};
use table::Table;

/// How long a device may take to finish the request in hand when its front end changes something
/// or has gone. The eventfd by which we interrupt is shared with the front end: one that has filled
/// it and made it blocking stops our thread in the middle of a write, for ever. The device is
/// [lost](Error::Lost) then.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a front end is no longer served.
#[derive(Debug, Error)]
pub enum Error {
    /// It asked for what cannot be, or broke off in the middle. The device is as new.
    #[error("the front end broke the protocol: {0}")]
    Protocol(protocol::Error),
    /// The device does not finish a request: nobody can be served any more.
    #[error("the device is lost: it has been at one request for {} s", PATIENCE.as_secs())]
    Lost,
}

/// A device that front ends may use, one after another.
pub struct VhostUser {
    backend: Arc<Mutex<Backend>>,
}

impl VhostUser {
    /// Serves `device`, whose thread is started here.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn new(device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        Ok(VhostUser {
            backend: Arc::new(Mutex::new(Backend::new(device)?)),
        })
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
        let mut backend = lock(&self.backend);
        backend.disconnected();
        if backend.device.is_lost() {
            return Err(Error::Lost);
        }
        ended
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
    device: Lifecycle,
}

/// A message was refused: the connection ends.
fn refused(why: impl std::fmt::Display) -> protocol::Error {
    debug!("vhost-user: {why}");
    protocol::Error::InvalidParam
}

impl Backend {
    fn new(device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        Ok(Backend {
            id: device.id(),
            offered: device.features()
                | queue::FEATURES
                | features::VERSION_1
                | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            config: device.config(),
            accepted: None,
            table: Table::default(),
            rings: device.queues().iter().map(|_| Ring::new()).collect(),
            device: Lifecycle::new(device, Arc::new([]), Arc::new(Silent), Some(PATIENCE))?,
        })
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

    /// Stops the device where it is: when this returns nothing touches the guest's memory.
    fn pause(&mut self) {
        if !self.device.is_live() {
            return;
        }
        self.device.pause();
        let mut queues = self.device.take_queues();
        if !self.device.is_lost() {
            // Of the front end's descriptors none is kept. Nothing is waited for in their place, so
            // nothing can be refused.
            let _ = self.device.connect(Arc::new([]), Arc::new(Silent));
        }
        for (index, ring) in self.rings.iter_mut().enumerate() {
            if let Some(queue) = queues.get(index) {
                ring.base = queue.next_available();
            }
        }
    }

    /// Lets the device go on, if it does not and rings are there for it.
    fn resume(&mut self) -> protocol::Result<()> {
        if self.device.is_live() || !self.rings.iter().any(|ring| self.runs(ring)) {
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
        self.connect()
            .map_err(|_| protocol::Error::BackendInternalError)?;
        self.device.activate(accepted, &memory);
        self.device.start(Queues::new(queues));
        Ok(())
    }

    /// Gives the device the kicks that its rings have now, and their error descriptors.
    fn connect(&mut self) -> io::Result<()> {
        let kick = |ring: &Ring| match &ring.kick {
            Some(kick) => kick.try_clone(),
            None => event(),
        };
        let kicks: io::Result<Arc<[EventFd]>> = self.rings.iter().map(kick).collect();
        let errors = Errors::of(&self.rings)?;
        self.device.connect(kicks?, Arc::new(errors))
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
        self.device.reset();
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
