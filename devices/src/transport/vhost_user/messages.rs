//! The messages of the protocol, as changes of the [`Backend`].

use std::fs::File;

use log::debug;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vmm_sys_util::eventfd::EventFd;

use super::ring::{Areas, event};
use super::table::{REGIONS_MAX, Table};
use super::{Backend, refused};
use crate::virtio::{DeviceId, features};

/// The protocol features that we offer for every device.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// The error for a message whose feature was not offered.
fn not_offered<T>(what: &'static str) -> Result<T> {
    debug!("vhost-user: {what} was not offered");
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered)
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        let unoffered = accepted & !self.offered;
        if unoffered != 0 || accepted & features::VERSION_1 == 0 {
            let offered = self.offered;
            return Err(refused(format_args!(
                "features {accepted:#x} of {offered:#x}, without VERSION_1 or with some not offered"
            )));
        }
        if self.accepted == Some(accepted) {
            return Ok(());
        }
        self.change(|backend| {
            // A device is activated with its features only after a reset.
            backend.reset_device();
            backend.accepted = Some(accepted);
            Ok(())
        })
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        // QEMU warns its user about a configuration space that it does not expect.
        Ok(match self.id {
            DeviceId::Entropy => PROTOCOL,
            _ => PROTOCOL | VhostUserProtocolFeatures::CONFIG,
        })
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        match features & !self.get_protocol_features()?.bits() {
            0 => Ok(()),
            unoffered => Err(refused(format_args!(
                "protocol features {unoffered:#x} were not offered"
            ))),
        }
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut table = Table::default();
        for (region, file) in regions.iter().zip(files) {
            table.add(region, file)?;
        }
        self.change(|backend| {
            backend.table = table;
            Ok(())
        })?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        self.change(|backend| backend.table.add(region, file))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.change(|backend| backend.table.remove(region))
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.change_ring(index, |ring| {
            // Larger values become 0, which activation rejects.
            ring.size = u16::try_from(num).unwrap_or(0);
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        device: u64,
        driver: u64,
        _log: u64,
    ) -> Result<()> {
        self.change_ring(index, |ring| {
            ring.areas = Some(Areas { descriptors, driver, device });
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(refused)?;
        self.change_ring(index, |ring| {
            ring.base = base;
            Ok(())
        })
    }

    /// Stops the ring. When the reply is sent, nothing accesses the ring any more.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.change_ring(index, |ring| {
            ring.kick = None;
            Ok(())
        })?;
        let base = self.ring(index)?.base;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let kick =
            file.ok_or_else(|| refused("a ring without a kick: polling is not supported"))?;
        let kick = event(kick)?;
        self.change_ring(index.into(), |ring| {
            ring.kick = Some(kick);
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call: Option<EventFd> = file.map(event).transpose()?;
        self.change_ring(index.into(), |ring| {
            ring.call = call;
            Ok(())
        })
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let error = file.map(event).transpose()?;
        self.change_ring(index.into(), |ring| {
            ring.error = error;
            Ok(())
        })
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change_ring(index, |ring| {
            ring.enabled = enable;
            Ok(())
        })
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        // At most a page, as a message is no longer.
        let mut data = vec![0; size as usize];
        self.config.read(offset as usize, &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        self.config.write(offset as usize, data);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered("a GPU")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered("SHARED_OBJECT")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered("INFLIGHT_SHMFD")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        not_offered("INFLIGHT_SHMFD")
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered("DEVICE_STATE")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("SHMEM")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        not_offered("LOG_SHMFD")
    }
}

#[cfg(test)]
#[path = "messages_test.rs"]
mod tests;
