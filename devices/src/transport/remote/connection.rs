//! What a session talks to, and the messages of a connection to a vhost-user back end.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::GuestMemoryBackend;
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::kind::{Config, Kind};
use crate::memory::Memory;
use crate::sync::lock;
use crate::virtio::features;
use crate::virtio::queue::QueueConfig;

/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The requests that a back end has begun, in a file that it keeps up to date.
pub(super) type InFlight = (VhostUserInflight, File);

/// A back end, as its session drives it.
pub(super) trait Peer: Send {
    /// The features that it offers.
    fn offered(&self) -> u64;

    /// The first `len` bytes of the device's configuration space.
    fn config(&mut self, len: u32) -> Result<Vec<u8>, Error>;

    /// Whether it has the memory of the VM.
    fn is_shared(&self) -> bool;

    /// Makes it get the memory again, since there is another VM.
    fn unshare(&mut self);

    /// Tells what the driver has accepted, and shares the memory unless that is done.
    fn prepare(&mut self, accepted: u64, memory: &Memory, kind: &Kind) -> Result<(), Error>;

    /// Starts queue `index`, whose areas are at `places`, with the events of calls and kicks.
    fn start(
        &mut self,
        index: usize,
        config: &QueueConfig,
        places: &Places,
        events: [&EventFd; 2],
    ) -> Result<(), Error>;

    /// Stops queue `index`. Returns the available index at which it stopped.
    fn stop(&mut self, index: usize) -> Result<u32, Error>;
}

/// The addresses of a queue's areas in this process.
pub(super) struct Places {
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl Places {
    /// Those of a queue that [`QueueConfig::activate`] has checked.
    pub(super) fn of(memory: &Memory, config: &QueueConfig) -> Option<Places> {
        let address = |guest| Some(memory.translate(guest, 1)?.as_ptr().addr() as u64);
        Some(Places {
            descriptors: address(config.descriptors)?,
            driver: address(config.driver)?,
            device: address(config.device)?,
        })
    }
}

/// A connection whose protocol features are negotiated.
pub(super) struct Connection {
    client: Frontend,
    offered: u64,
    protocol: VhostUserProtocolFeatures,
    shared: bool,
    in_flight: Arc<Mutex<Option<InFlight>>>,
}

impl Connection {
    /// Negotiates what does not depend on the driver.
    ///
    /// `in_flight` is the record of another connection, or becomes that of this one.
    ///
    /// # Errors
    /// The back end does not speak the protocol, or lacks something.
    pub(super) fn new(
        stream: UnixStream,
        kind: &Kind,
        in_flight: Arc<Mutex<Option<InFlight>>>,
    ) -> Result<Connection, Error> {
        let queues = kind.queues.len() as u64;
        let mut client = Frontend::from_stream(stream, queues);
        let offered = client.get_features()?;
        for (bit, name) in [
            (features::VERSION_1, "VIRTIO_F_VERSION_1"),
            (PROTOCOL_FEATURES, "VHOST_USER_F_PROTOCOL_FEATURES"),
        ] {
            if offered & bit == 0 {
                return Err(Error::Lacks(name));
            }
        }
        let mut wanted = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::MQ;
        if let Config::Asked(_) = kind.config {
            wanted |= VhostUserProtocolFeatures::CONFIG;
        }
        let protocol = client.get_protocol_features()? & wanted;
        if !protocol.contains(wanted & VhostUserProtocolFeatures::CONFIG) {
            return Err(Error::Lacks("VHOST_USER_PROTOCOL_F_CONFIG"));
        }
        client.set_protocol_features(protocol)?;
        if protocol.contains(VhostUserProtocolFeatures::MQ) && client.get_queue_num()? < queues {
            return Err(Error::Lacks("a queue"));
        }
        client.set_owner()?;
        Ok(Connection { client, offered, protocol, shared: false, in_flight })
    }
}

impl Peer for Connection {
    fn offered(&self) -> u64 {
        self.offered
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn unshare(&mut self) {
        self.shared = false;
    }

    fn config(&mut self, len: u32) -> Result<Vec<u8>, Error> {
        let nothing = vec![0; len as usize];
        let flags = VhostUserConfigFlags::empty();
        let (_, config) = self.client.get_config(0, len, flags, &nothing)?;
        Ok(config)
    }

    fn prepare(&mut self, accepted: u64, memory: &Memory, kind: &Kind) -> Result<(), Error> {
        let client = &mut self.client;
        client.set_features(accepted | features::VERSION_1 | PROTOCOL_FEATURES)?;
        if !self.shared {
            let regions = memory.ram().iter();
            let regions = regions.map(VhostUserMemoryRegionInfo::from_guest_region);
            client.set_mem_table(&regions.collect::<Result<Vec<_>, _>>()?)?;
            self.shared = true;
        }
        if self
            .protocol
            .contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
        {
            let count = u16::try_from(kind.queues.len()).unwrap_or(u16::MAX);
            let size = kind.queues.iter().max().copied().unwrap_or(0);
            let mut in_flight = lock(&self.in_flight);
            let (area, file) = match in_flight.take() {
                Some(noted) => noted,
                None => client.get_inflight_fd(&VhostUserInflight::new(0, 0, count, size))?,
            };
            client.set_inflight_fd(&area, file.as_raw_fd())?;
            *in_flight = Some((area, file));
        }
        Ok(())
    }

    fn start(
        &mut self,
        index: usize,
        config: &QueueConfig,
        places: &Places,
        [call, kick]: [&EventFd; 2],
    ) -> Result<(), Error> {
        let client = &mut self.client;
        client.set_vring_num(index, config.size)?;
        let addresses = VringConfigData {
            queue_max_size: config.max,
            queue_size: config.size,
            flags: 0,
            desc_table_addr: places.descriptors,
            used_ring_addr: places.device,
            avail_ring_addr: places.driver,
            log_addr: None,
        };
        client.set_vring_addr(index, &addresses)?;
        client.set_vring_base(index, config.resume.unwrap_or(0))?;
        client.set_vring_call(index, call)?;
        client.set_vring_kick(index, kick)?;
        // The last message alone is confirmed, if the back end can: each confirmation takes time,
        // and messages are handled in order.
        if self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            client.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let enabled = client.set_vring_enable(index, true);
        client.set_hdr_flags(VhostUserHeaderFlag::empty());
        Ok(enabled?)
    }

    fn stop(&mut self, index: usize) -> Result<u32, Error> {
        Ok(self.client.get_vring_base(index)?)
    }
}
