//! Our devices for QEMU's guest: each is served by a thread of ours, over a socket pair whose other end QEMU inherits.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::transport::vhost_user::VhostUser;
use devices::virtio::VirtioDevice;
use log::warn;

use super::{cannot, inherit};
use crate::board::slots::{self, Parts};
use crate::error::Error;
use crate::machine::{Disk, Machine};
use crate::observe::{self, Observer};
use crate::vhost_user::Session;

/// The devices of a machine, while they are served.
#[derive(Default)]
pub(super) struct Backends {
    sessions: Vec<Session>,
    /// QEMU's ends of the pairs.
    theirs: Vec<OwnedFd>,
}

impl Backends {
    /// Serves those of the machine's devices that can be served, in the order of their slots.
    pub(super) fn start(machine: &Machine, observer: &dyn Observer) -> Result<Self, Error> {
        let mut backends = Backends::default();
        machine.disks.iter().try_for_each(Disk::lock)?;
        let parts = Parts {
            machine,
            consoles: None,
        };
        for slot in slots::slots(&machine.config) {
            if slot.is_served() {
                let device = slot.model(&parts)?.device;
                backends.serve(observe::back_end(observer, &slot.name(), device))?;
            }
        }
        Ok(backends)
    }

    fn serve(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), Error> {
        let pair = UnixStream::pair();
        let (ours, theirs) = pair.map_err(|source| cannot("create a socket pair", source))?;
        let theirs = OwnedFd::from(theirs);
        inherit(&theirs)?;
        let service = VhostUser::new(device);
        let service = Arc::new(service.map_err(|it| cannot("start a device", it))?);
        self.sessions.push(Session::start(&service, ours)?);
        self.theirs.push(theirs);
        Ok(())
    }

    /// Where QEMU finds them, for its -chardev socket.
    pub(super) fn addresses(&self) -> Vec<OsString> {
        let address = |end: &OwnedFd| format!("fd={}", end.as_raw_fd()).into();
        self.theirs.iter().map(address).collect()
    }

    /// QEMU has its ends: with ours of them closed, its own end is seen.
    pub(super) fn inherited(&mut self) {
        self.theirs.clear();
    }

    /// Ends all of them: when this returns, what they had begun is done.
    pub(super) fn finish(self) {
        for session in self.sessions {
            if let Err(error) = session.finish() {
                warn!("QEMU's device: {error}");
            }
        }
    }
}
