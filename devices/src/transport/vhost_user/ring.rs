//! A ring as messages set it up, and its eventfds.

use std::fs::{File, read_link};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vhost::vhost_user as protocol;
use vmm_sys_util::eventfd::EventFd;

use super::refused;
use super::table::Table;
use crate::memory::Memory;
use crate::virtio::Notify;
use crate::virtio::queue::{Queue, QueueConfig, SIZE_MAX};

/// One ring of a front end.
#[derive(Default)]
pub(super) struct Ring {
    /// Its size in descriptors. Any valid size is accepted: the protocol has no message for the
    /// device's maximum, and QEMU's virtio-mmio offers its driver 1024 for every device.
    pub(super) size: u16,
    /// The addresses of its areas, in the front end's address space.
    pub(super) areas: Option<Areas>,
    /// The available index at which it starts, or stopped.
    pub(super) base: u16,
    /// Whether the front end has enabled it (SET_VRING_ENABLE).
    pub(super) enabled: bool,
    /// Notifies us. A ring without it is stopped.
    pub(super) kick: Option<EventFd>,
    /// Interrupts the driver. Without it the driver polls.
    pub(super) call: Option<EventFd>,
    /// Notifies the front end that the ring is invalid.
    pub(super) error: Option<EventFd>,
}

/// The addresses of a ring's three areas (§ 2.7).
#[derive(Clone, Copy)]
pub(super) struct Areas {
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl Ring {
    pub(super) fn is_set_up(&self) -> bool {
        self.areas.is_some() && self.kick.is_some()
    }

    /// Activates the queue. If the ring is invalid, this returns `None`, reports the error to the
    /// front end, and stops the ring until it gets another kick. The connection stays, as the guest
    /// chose the size and the addresses.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub(super) fn activate(
        &mut self,
        table: &Table,
        memory: &Memory,
        accepted: u64,
    ) -> protocol::Result<Option<Queue>> {
        let call = self.call.as_ref().map(EventFd::try_clone).transpose();
        let call = call.map_err(|_| protocol::Error::BackendInternalError)?;
        let config = self.config(table);
        let queue = config.and_then(|config| {
            let queue = config.activate(memory, accepted, Arc::new(Call(call)));
            queue.map_err(refused)
        });
        if queue.is_err() {
            self.kick = None;
            if let Some(error) = &self.error {
                // Fails only when 2^64 errors are outstanding.
                let _ = error.write(1);
            }
        }
        Ok(queue.ok())
    }

    /// The configuration that virtio-mmio has in its registers.
    fn config(&self, table: &Table) -> protocol::Result<QueueConfig> {
        let areas = self.areas.ok_or_else(|| refused("a ring without areas"))?;
        Ok(QueueConfig {
            size: self.size,
            ready: true,
            descriptors: table.guest_address(areas.descriptors)?,
            driver: table.guest_address(areas.driver)?,
            device: table.guest_address(areas.device)?,
            resume: Some(self.base),
            ..QueueConfig::new(SIZE_MAX)
        })
    }
}

/// Notifies the driver of one ring with its call eventfd.
struct Call(Option<EventFd>);

impl Notify for Call {
    fn used(&self, _index: u16) {
        if let Some(event) = &self.0 {
            // Fails only when 2^64 events are outstanding: one of them will do.
            let _ = event.write(1);
        }
    }

    fn config_changed(&self) {}

    fn needs_reset(&self) {}
}

/// The error eventfds of all rings. An invalid ring stops the whole device, so all are signalled.
#[derive(Default)]
pub(super) struct Errors(Vec<EventFd>);

impl Errors {
    pub(super) fn of(rings: &[Ring]) -> io::Result<Self> {
        let errors = rings.iter().filter_map(|ring| ring.error.as_ref());
        let errors: io::Result<Vec<_>> = errors.map(EventFd::try_clone).collect();
        errors.map(Errors)
    }
}

impl Notify for Errors {
    fn used(&self, _index: u16) {}

    fn config_changed(&self) {}

    fn needs_reset(&self) {
        for error in &self.0 {
            // Fails only when 2^64 errors are outstanding.
            let _ = error.write(1);
        }
    }
}

/// Converts a descriptor that came with a message to an eventfd.
pub(super) fn event(file: File) -> protocol::Result<EventFd> {
    // epoll does not support some other files. Without /proc the type is not checked.
    match read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(name) if !name.as_os_str().as_encoded_bytes().ends_with(b"[eventfd]") => {
            return Err(refused(format_args!("{name:?} is not an eventfd")));
        }
        _ => {}
    }
    // A write to a full eventfd must not block the device's thread.
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK))
        .map_err(refused)?;
    #[expect(
        unsafe_code,
        reason = "EventFd has no safe conversion from a descriptor"
    )]
    // SAFETY: the descriptor is open, and `file`, its only owner, gave it up.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}
