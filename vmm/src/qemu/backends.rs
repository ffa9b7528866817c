//! The vhost-user back ends of QEMU's guest: a thread per device, on a socket pair whose other end
//! QEMU inherits.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::transport::vhost_user::VhostUser;
use devices::virtio::VirtioDevice;
use log::warn;

use super::inherit;
use crate::board::slots::{self, Device, Parts};
use crate::error::Error;
use crate::machine::{Disk, Machine};
use crate::observe::{self, Observer};
use crate::vhost_user::Session;

/// The served devices of a machine.
#[derive(Default)]
pub(super) struct Backends {
    sessions: Vec<Session>,
    /// QEMU's ends of the socket pairs.
    theirs: Vec<OwnedFd>,
}

impl Backends {
    /// Serves the devices of the machine that support it, in slot order.
    pub(super) fn start(machine: &Machine, observer: &dyn Observer) -> Result<Self, Error> {
        let mut backends = Backends::default();
        machine.disks.iter().try_for_each(Disk::lock)?;
        let parts = Parts { machine, consoles: None };
        for slot in slots::slots(&machine.config) {
            if slot.is_served()
                && let Device::Ours(device) = slot.model(&parts)?.device
            {
                backends.serve(observe::back_end(observer, &slot.name(), device))?;
            }
        }
        Ok(backends)
    }

    fn serve(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), Error> {
        let pair = UnixStream::pair();
        let (ours, theirs) = pair.map_err(Error::host("create a socket pair"))?;
        let theirs = OwnedFd::from(theirs);
        inherit(&theirs)?;
        let service = VhostUser::new(device);
        let service = Arc::new(service.map_err(Error::host("start a device"))?);
        self.sessions.push(Session::start(&service, ours)?);
        self.theirs.push(theirs);
        Ok(())
    }

    /// Returns their addresses for QEMU's -chardev socket.
    pub(super) fn addresses(&self) -> Vec<OsString> {
        let address = |end: &OwnedFd| format!("fd={}", end.as_raw_fd()).into();
        self.theirs.iter().map(address).collect()
    }

    /// Closes this process's copies of QEMU's ends once QEMU has inherited them, so that QEMU's
    /// exit closes the connection.
    pub(super) fn inherited(&mut self) {
        self.theirs.clear();
    }

    /// Stops all back ends. When this returns, the requests that they had started are complete.
    pub(super) fn finish(self) {
        for session in self.sessions {
            if let Err(error) = session.finish() {
                warn!("QEMU's device: {error}");
            }
        }
    }
}
