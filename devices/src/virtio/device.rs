//! The interface of every virtio device, whatever its transport (virtio 1.3, § 2).

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::error::QueueError;
use super::queue::Queue;
use super::stop::Stop;
use crate::memory::Memory;
use crate::observe::DeviceObserver;
use crate::spec::DeviceId;

/// A device model: it serves the buffers of its queues.
///
/// It knows no address, interrupt controller, hypervisor or thread. A transport reads its features,
/// negotiates, and starts it. From then on `process_queue` and `handle_event` are called, one at a
/// time, until the transport pauses or resets the device:
///
/// ```text
///   offered ──activate──▶ live ──(process_queue | handle_event)*──▶ reset ──▶ offered
/// ```
///
/// A device answers an invalid request in its own way (a status byte). For an invalid ring it
/// returns `QueueError`: DEVICE_NEEDS_RESET is set, and nothing is called until the reset.
pub trait VirtioDevice: Send {
    /// The device type.
    fn id(&self) -> DeviceId;

    /// The maximum size of each queue, in descriptors: powers of two.
    fn queues(&self) -> &[u16];

    /// The device's feature bits, without those of the rings and the transport.
    fn features(&self) -> u64;

    /// The configuration space. The driver may read it at any time, so it is shared.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// Called when FEATURES_OK is set, before DRIVER_OK. The driver has accepted `features`, and
    /// its buffers are in `memory`.
    fn activate(&mut self, features: u64, memory: &Memory) {
        let _ = (features, memory);
    }

    /// Called when the driver has notified queue `index`, or the last call left it unfinished.
    ///
    /// # Errors
    /// The ring is invalid.
    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError>;

    /// Whether the vCPU that notifies queue `index` should serve it itself. This is for queues
    /// whose driver only waits meanwhile, and which never block.
    fn inline_notify(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// The host files that the device waits for, the same throughout its life. They are
    /// edge-triggered, so `handle_event` must read or write until the file would block.
    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        Vec::new()
    }

    /// Called when file `index` of `files` has become ready.
    ///
    /// # Errors
    /// A ring is invalid.
    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let _ = (index, queues);
        Ok(())
    }

    /// Discards the state of queue `index`, which was reset or disabled. The other queues continue.
    fn queue_reset(&mut self, index: usize) {
        let _ = index;
    }

    /// Discards all state of the driver. No queue is in use any more.
    fn reset(&mut self) {}

    /// Attaches an observer for events that the queues do not report. Called before the device is
    /// offered.
    fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        let _ = observer;
    }
}

/// What to wait for on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The file can be read, or has ended.
    Read,
    /// The file can be written, or its reader has closed it.
    Write,
}

/// The queues of a live device. A queue that the driver did not enable is absent.
#[derive(Default)]
pub struct Queues(Vec<Option<Queue>>);

impl Queues {
    /// The queues by index.
    pub fn new(mut queues: Vec<Option<Queue>>) -> Self {
        for (queue, index) in queues.iter_mut().zip(0..) {
            if let Some(queue) = queue {
                queue.set_index(index);
            }
        }
        Queues(queues)
    }

    /// Queue `index`, if the driver enabled it.
    pub fn get(&mut self, index: usize) -> Option<&mut Queue> {
        self.0.get_mut(index)?.as_mut()
    }

    /// The indices of the queues that were left [unfinished](Queue::is_unfinished).
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = u64> {
        let indexed = (0..).zip(&self.0);
        let unfinished = |queue: &Option<Queue>| queue.as_ref().is_some_and(Queue::is_unfinished);
        indexed.filter_map(move |(index, queue)| unfinished(queue).then_some(index))
    }

    /// Makes each queue stop before its next chain while `stop` is set.
    pub(crate) fn set_stop(&mut self, stop: &Stop) {
        for queue in self.0.iter_mut().flatten() {
            queue.set_stop(stop);
        }
    }

    /// Attaches `observer` to each queue.
    pub(crate) fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        for queue in self.0.iter_mut().flatten() {
            queue.observe(observer);
        }
    }

    /// Replaces queue `index` by another queue, or by none. A chain on which the old one stalled is
    /// dropped.
    pub(crate) fn set(&mut self, index: usize, mut queue: Option<Queue>) {
        if let (Some(queue), Ok(index)) = (&mut queue, u16::try_from(index)) {
            queue.set_index(index);
        }
        if let Some(place) = self.0.get_mut(index) {
            *place = queue;
        }
    }
}

/// A device's configuration space (§ 2.5): little-endian fields, read and written by the driver at
/// any time.
///
/// The transport reads it again after each write by the driver and each change of the status. Code
/// that changes it at any other time notifies the transport.
pub trait ConfigSpace: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> usize;

    /// Whether its length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on; those past the end read as zero.
    fn read(&self, offset: usize, data: &mut [u8]);

    /// Called when the driver writes. Fields are read-only by default.
    fn write(&self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }
}

/// A configuration space that never changes.
impl ConfigSpace for Vec<u8> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

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
