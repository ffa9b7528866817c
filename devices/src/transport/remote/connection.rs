//! The messages of a connection to a back end.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

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
use crate::virtio::features;
use crate::virtio::queue::QueueConfig;

/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The requests that a back end has begun, in a file that it keeps up to date.
pub(super) type InFlight = (VhostUserInflight, File);

/// A connection whose protocol features are negotiated.
pub(super) struct Connection {
    client: Frontend,
    /// The features that the back end offers.
    pub(super) offered: u64,
    protocol: VhostUserProtocolFeatures,
    /// Whether the back end has mapped the memory of the VM.
    pub(super) shared: bool,
}

impl Connection {
    /// Negotiates what does not depend on the driver.
    ///
    /// # Errors
    /// The back end does not speak the protocol, or lacks something.
    pub(super) fn new(stream: UnixStream, kind: &Kind) -> Result<Connection, Error> {
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
        Ok(Connection { client, offered, protocol, shared: false })
    }

    /// The first `len` bytes of the device's configuration space.
    pub(super) fn config(&mut self, len: u32) -> Result<Vec<u8>, Error> {
        let nothing = vec![0; len as usize];
        let flags = VhostUserConfigFlags::empty();
        let (_, config) = self.client.get_config(0, len, flags, &nothing)?;
        Ok(config)
    }

    /// Tells what the driver has accepted, and shares the memory unless that is done. `in_flight`
    /// is the record of another connection, or becomes the new one.
    pub(super) fn prepare(
        &mut self,
        accepted: u64,
        memory: &Memory,
        kind: &Kind,
        in_flight: &mut Option<InFlight>,
    ) -> Result<(), vhost::Error> {
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
            let (area, file) = match in_flight.take() {
                Some(noted) => noted,
                None => client.get_inflight_fd(&VhostUserInflight::new(0, 0, count, size))?,
            };
            client.set_inflight_fd(&area, file.as_raw_fd())?;
            *in_flight = Some((area, file));
        }
        Ok(())
    }

    /// Starts queue `index`, whose rings are at `addresses`.
    pub(super) fn start(
        &mut self,
        index: usize,
        config: &QueueConfig,
        addresses: &VringConfigData,
        [call, kick]: [&EventFd; 2],
    ) -> Result<(), vhost::Error> {
        let client = &mut self.client;
        client.set_vring_num(index, config.size)?;
        client.set_vring_addr(index, addresses)?;
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
        enabled
    }

    /// Stops queue `index`. Returns the available index at which it stopped.
    pub(super) fn stop(&mut self, index: usize) -> Result<u32, vhost::Error> {
        self.client.get_vring_base(index)
    }
}

/// The addresses of a queue that [`QueueConfig::activate`] has checked, in this process.
pub(super) fn addresses(memory: &Memory, config: &QueueConfig) -> Option<VringConfigData> {
    let address = |guest| Some(memory.translate(guest, 1)?.as_ptr().addr() as u64);
    Some(VringConfigData {
        queue_max_size: config.max,
        queue_size: config.size,
        flags: 0,
        desc_table_addr: address(config.descriptors)?,
        used_ring_addr: address(config.device)?,
        avail_ring_addr: address(config.driver)?,
        log_addr: None,
    })
}
