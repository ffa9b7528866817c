//! What every virtio device has, whatever carries it to its driver (virtio 1.3, § 2).

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use crate::spec::{DeviceId, features, status};
use crate::virtio::error::QueueError;
use crate::virtio::queue::Queue;
use crate::watch::Watch;

/// A device model: what it does with the buffers of its queues.
///
/// It knows no address, interrupt controller, hypervisor or thread. A transport asks what it offers, negotiates, and
/// hands it to a [`Worker`](crate::virtio::worker::Worker), which calls `process_queue` and `handle_event`, one at a time, until it is stopped:
///
/// ```text
///   offered ──activate──▶ live ──(kicked | ready)*──▶ stopped ──reset──▶ offered
/// ```
///
/// A request that makes no sense is answered in the device's own way (a status byte). A ring that makes no sense is
/// `Err(QueueError)`: the worker then sets DEVICE_NEEDS_RESET and calls nothing more until the reset.
pub trait VirtioDevice: Send {
    /// The device type.
    fn id(&self) -> DeviceId;

    /// The largest size of each of its queues: powers of two.
    fn queues(&self) -> &[u16];

    /// The device's own feature bits. Those of the rings and the transport are not its business.
    fn features(&self) -> u64;

    /// The configuration space. It is read while a worker owns the device, so it is shared.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// The driver has accepted `features`: FEATURES_OK is set, and DRIVER_OK is still to come.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// The driver notified queue `index`, or the worker has come back to a queue that was left unfinished.
    ///
    /// # Errors
    /// The ring is broken.
    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError>;

    /// Whether queue `index` is better served where its notification comes, in the vCPU's thread, than after waking another:
    /// its driver does nothing meanwhile but wait, and serving it never waits for anything.
    fn inline_notify(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// Host files whose readiness the device waits for: edge-triggered, so `handle_event` must use up what there is.
    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        Vec::new()
    }

    /// File `index` of `files` has become ready.
    ///
    /// # Errors
    /// A ring is broken.
    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let _ = (index, queues);
        Ok(())
    }

    /// Forgets what the driver began with queue `index`, which was reset or disabled. The other queues go on.
    fn queue_reset(&mut self, index: usize) {
        let _ = index;
    }

    /// Forgets what the driver began. No queue is in use any more.
    fn reset(&mut self) {}

    /// `watch` wants to know what the device does beside what its queues tell. To be called before it is offered.
    fn watch(&mut self, watch: &Arc<dyn Watch>) {
        let _ = watch;
    }
}

/// What to wait for on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// There is something to read, or it has ended.
    Read,
    /// There is room to write, or nobody reads any more.
    Write,
}

/// The queues of a live device. One that the driver did not enable is absent.
pub struct Queues(Vec<Option<Queue>>);

impl Queues {
    /// The queues by index.
    pub fn new(queues: Vec<Option<Queue>>) -> Self {
        Queues(queues)
    }

    /// Queue `index`, if the driver enabled it.
    pub fn get(&mut self, index: usize) -> Option<&mut Queue> {
        self.0.get_mut(index)?.as_mut()
    }

    /// Lets `watch` know what happens on each of them.
    pub(crate) fn watch(&mut self, watch: &Arc<dyn Watch>) {
        for (queue, index) in self.0.iter_mut().zip(0..) {
            if let Some(queue) = queue {
                queue.watch(watch, index);
            }
        }
    }

    /// Puts another queue, or none, in the place of queue `index`. A chain that the old one held back is dropped.
    pub(crate) fn set(&mut self, index: usize, queue: Option<Queue>) {
        if let Some(place) = self.0.get_mut(index) {
            *place = queue;
        }
    }
}

/// A device's configuration space (§ 2.5): little-endian fields, read and written by the driver at any time.
///
/// A transport that shows it reads it again after each write and each change of status; whoever changes it otherwise tells
/// the transport.
pub trait ConfigSpace: Send + Sync {
    /// Copies the bytes from `offset` on; those past the end read as zero.
    fn read(&self, offset: usize, data: &mut [u8]);

    /// The driver wrote. Fields are read-only unless a device says otherwise.
    fn write(&self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }
}

/// A configuration space that never changes.
impl ConfigSpace for Vec<u8> {
    fn read(&self, offset: usize, data: &mut [u8]) {
        let here = self.get(offset..).unwrap_or_default();
        for (to, from) in data
            .iter_mut()
            .zip(here.iter().chain(std::iter::repeat(&0)))
        {
            *to = *from;
        }
    }
}

#[cfg(test)]
#[path = "device_test.rs"]
mod tests;
