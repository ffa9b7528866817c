//! A ring as messages set it up, and the eventfds that come with it.

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
pub(super) struct Ring {
    /// Its size in descriptors. The protocol has no word for what the device would like, and QEMU's virtio-mmio offers its
    /// driver 1024 whatever the device's own size is: so any size that a ring may have is taken.
    pub(super) size: u16,
    /// Where its areas lie, in the front end's own addresses.
    pub(super) areas: Option<Areas>,
    /// The available index to begin with, or where it stopped.
    pub(super) base: u16,
    /// Whether the front end lets it run; it says so by a message of its own.
    pub(super) enabled: bool,
    /// Notifies us. A ring without it is stopped.
    pub(super) kick: Option<EventFd>,
    /// Interrupts the driver; without it the driver polls.
    pub(super) call: Option<EventFd>,
    /// Tells the front end that the ring is broken.
    pub(super) error: Option<EventFd>,
}

/// Addresses of a ring's three areas (§ 2.7), in one address space or another.
#[derive(Clone, Copy)]
pub(super) struct Areas {
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl Ring {
    pub(super) fn new() -> Self {
        Ring {
            size: 0,
            areas: None,
            base: 0,
            enabled: false,
            kick: None,
            call: None,
            error: None,
        }
    }

    pub(super) fn is_set_up(&self) -> bool {
        self.areas.is_some() && self.kick.is_some()
    }

    /// The running queue. `None` if it cannot be: size and addresses are the guest's, whose front end need not suffer for
    /// it. Its error is told, and it is stopped until it gets another kick.
    ///
    /// # Errors
    /// The host has no descriptor left.
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

    /// What virtio-mmio would have in its registers.
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

/// Notifies the driver of one ring, by the eventfd of that ring.
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

/// The error descriptors of all rings: one thread serves them, and stops with the first that is
/// invalid.
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

/// Before there are rings, there is nobody to notify.
pub(super) struct Silent;

impl Notify for Silent {
    fn used(&self, _index: u16) {}

    fn config_changed(&self) {}

    fn needs_reset(&self) {}
}

/// A descriptor that came with a message, as the eventfd that it must be.
pub(super) fn event(file: File) -> protocol::Result<EventFd> {
    // Anything else might refuse to be waited for. Where /proc is absent there is no telling.
    match read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(name) if !name.as_os_str().as_encoded_bytes().ends_with(b"[eventfd]") => {
            return Err(refused(format_args!("{name:?} in the place of an eventfd")));
        }
        _ => {}
    }
    // A write to one that is full must not stop the device's thread.
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK))
        .map_err(refused)?;
    #[expect(unsafe_code, reason = "EventFd has no safe way from a descriptor")]
    // SAFETY: the descriptor is open and was `file`'s alone, which has given it up.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}
