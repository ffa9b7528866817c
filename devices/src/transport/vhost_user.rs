//! The vhost-user transport: serves a device on a socket to a front end that runs the guest (QEMU
//! or any other).
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
//! Messages take the place of virtio-mmio's registers ([the
//! protocol](https://qemu-project.gitlab.io/qemu/interop/vhost-user.html)). They fill in the same
//! queue configuration and start the same queues. A ring runs while it has memory, addresses and a
//! kick, and is enabled. A message that changes a running ring pauses the device, changes the ring,
//! and resumes the device where it stopped. So messages add no lock to the data path.
//!
//! The front end is trusted as little as a guest: an invalid message ends the connection, and
//! nothing else. The guest chooses the addresses of its rings, so an invalid ring is only stopped,
//! and its error reported. One risk remains: a front end that truncates a memory file after it was
//! mapped ends this process with SIGBUS, unless the file is sealed against that (as QEMU's
//! memory-backend-memfd is).

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

use ring::{Errors, Ring};
use table::Table;

/// The longest time that a device may take to finish the request in progress when its front end
/// changes a ring or disconnects. The front end shares our call eventfd: it can fill it and make it
/// blocking, and our thread then blocks in a write forever. The device is then [lost](Error::Lost).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why serving a front end ended.
#[derive(Debug, Error)]
pub enum Error {
    /// It sent an invalid message, or disconnected within one. The device was reset.
    #[error("the front end broke the protocol: {0}")]
    Protocol(protocol::Error),
    /// A request did not end in time. No other front end can be served.
    #[error("the device is lost: a request has not ended for {} s", REQUEST_TIMEOUT.as_secs())]
    Lost,
}

/// A device that front ends may use, one after another.
pub struct VhostUser {
    backend: Arc<Mutex<Backend>>,
}

impl VhostUser {
    /// Starts `device`'s thread.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn new(device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        Ok(VhostUser { backend: Arc::new(Mutex::new(Backend::new(device)?)) })
    }

    /// Serves the front end on `stream` until it disconnects. After that its memory is not in use,
    /// and the device has been reset. Another thread can end this by shutting the stream down.
    ///
    /// Returns the number of messages. It is 0 for a client that only probed the socket.
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

/// The state of a connection. [`messages`] changes it.
struct Backend {
    id: DeviceId,
    offered: u64,
    config: Arc<dyn ConfigSpace>,
    /// The features that the front end accepted; `None` before that.
    accepted: Option<u64>,
    table: Table,
    rings: Vec<Ring>,
    device: Lifecycle,
}

/// The error for an invalid message: the connection ends.
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
            rings: device.queues().iter().map(|_| Ring::default()).collect(),
            device: Lifecycle::new(
                device,
                Arc::new([]),
                Arc::new(Errors::default()),
                Some(REQUEST_TIMEOUT),
            )?,
        })
    }

    /// Applies a change on which all rings depend.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Self) -> protocol::Result<()>,
    ) -> protocol::Result<()> {
        self.pause();
        change(self)?;
        self.resume()
    }

    /// Changes ring `index`. The device is paused only if this ring runs before or after the
    /// change.
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

    /// Whether a ring has everything that it needs to run. After each message, the device serves
    /// exactly these rings.
    fn runs(&self, ring: &Ring) -> bool {
        let protocol_features = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.accepted.is_some_and(|accepted| {
            // Without PROTOCOL_FEATURES, rings are enabled from the start.
            ring.is_set_up() && (ring.enabled || accepted & protocol_features == 0)
        }) && !self.table.is_empty()
    }

    /// Pauses the device. When this returns, nothing accesses the guest's memory.
    fn pause(&mut self) {
        if !self.device.is_live() {
            return;
        }
        self.device.pause();
        let mut queues = self.device.take_queues();
        if !self.device.is_lost() {
            // Drops the front end's descriptors. Nothing is added to epoll, so this cannot fail.
            let _ = self
                .device
                .connect(Arc::new([]), Arc::new(Errors::default()));
        }
        for (index, ring) in self.rings.iter_mut().enumerate() {
            if let Some(queue) = queues.get(index) {
                ring.base = queue.next_available();
            }
        }
    }

    /// Starts the device, unless it is live or no ring can run.
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

    /// Connects the device to the kicks and error descriptors of its rings.
    fn connect(&mut self) -> io::Result<()> {
        let kick = |ring: &Ring| match &ring.kick {
            Some(kick) => kick.try_clone(),
            None => event(),
        };
        let kicks: io::Result<Arc<[EventFd]>> = self.rings.iter().map(kick).collect();
        let errors = Errors::of(&self.rings)?;
        self.device.connect(kicks?, Arc::new(errors))
    }

    /// Stops every ring and resets the device. The memory table stays.
    fn reset(&mut self) {
        self.reset_device();
        for ring in &mut self.rings {
            ring.enabled = false;
            ring.kick = None;
        }
    }

    fn reset_device(&mut self) {
        self.pause();
        self.device.reset();
    }

    fn disconnected(&mut self) {
        self.reset();
        self.accepted = None;
        self.table = Table::default();
        self.rings.fill_with(Ring::default);
    }
}

fn absent(index: u32, count: usize) -> protocol::Error {
    refused(format_args!("ring {index} of {count}"))
}
