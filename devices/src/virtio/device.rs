//! What every virtio device has, whatever carries it to its driver (virtio 1.3, § 2).

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::error::QueueError;
use super::queue::Queue;
use super::stop::Stop;
use crate::memory::Memory;
use crate::observe::DeviceObserver;
use crate::spec::DeviceId;

/// A device model: what it does with the buffers of its queues.
///
/// It knows no address, interrupt controller, hypervisor or thread. A transport asks what it
/// offers, negotiates, and starts it. From then on `process_queue` and `handle_event` are called,
/// one at a time, until the transport pauses or resets the device:
///
/// ```text
///   offered ──activate──▶ live ──(process_queue | handle_event)*──▶ reset ──▶ offered
/// ```
///
/// An invalid request is answered in the device's own way (a status byte). An invalid ring is
/// `Err(QueueError)`: DEVICE_NEEDS_RESET is set then, and nothing more is called until the reset.
pub trait VirtioDevice: Send {
    /// The device type.
    fn id(&self) -> DeviceId;

    /// The largest size of each of its queues, in descriptors: powers of two.
    fn queues(&self) -> &[u16];

    /// The device's own feature bits, without those of the rings and the transport.
    fn features(&self) -> u64;

    /// The configuration space. The driver may read it at any time, so it is shared.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// The driver has accepted `features`, and its buffers lie in `memory`. FEATURES_OK is set, and
    /// DRIVER_OK is still to come.
    fn activate(&mut self, features: u64, memory: &Memory) {
        let _ = (features, memory);
    }

    /// The driver notified queue `index`, or the queue was left unfinished before.
    ///
    /// # Errors
    /// The ring is invalid.
    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError>;

    /// Whether the vCPU that notifies queue `index` should serve it itself: its driver does nothing
    /// but wait meanwhile, and serving it never blocks.
    fn inline_notify(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// Host files whose readiness the device waits for, the same ones throughout its life. They are
    /// edge-triggered, so `handle_event` must use up what there is.
    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        Vec::new()
    }

    /// File `index` of `files` has become ready.
    ///
    /// # Errors
    /// A ring is invalid.
    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let _ = (index, queues);
        Ok(())
    }

    /// Forgets what the driver began with queue `index`, which was reset or disabled. The other
    /// queues go on.
    fn queue_reset(&mut self, index: usize) {
        let _ = index;
    }

    /// Forgets what the driver began. No queue is in use any more.
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
    /// There is something to read, or the file has ended.
    Read,
    /// There is room to write, or the reader is gone.
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

    /// Has each of them stop before its next chain while `stop` is set.
    pub(crate) fn set_stop(&mut self, stop: &Stop) {
        for queue in self.0.iter_mut().flatten() {
            queue.set_stop(stop);
        }
    }

    /// Attaches `observer` to each of them.
    pub(crate) fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        for queue in self.0.iter_mut().flatten() {
            queue.observe(observer);
        }
    }

    /// Puts another queue, or none, in the place of queue `index`. A chain that the old one stalled
    /// on is dropped.
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
/// A transport that shows it reads it again after each write and each change of status; whoever
/// changes it otherwise notifies the transport.
pub trait ConfigSpace: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on; those past the end read as zero.
    fn read(&self, offset: usize, data: &mut [u8]);

    /// The driver wrote. Fields are read-only unless a device says otherwise.
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
