//! Wrappers for a device and an interrupt line that report events to a [`DeviceObserver`].

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::irq::IrqLine;
use crate::memory::Memory;
use crate::observe::{DeviceObserver, Event};
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

/// A device that reports its events.
pub struct Observed {
    device: Box<dyn VirtioDevice>,
    observer: Arc<dyn DeviceObserver>,
}

impl Observed {
    /// Wraps `device`, and attaches `observer` to it.
    pub fn new(mut device: Box<dyn VirtioDevice>, observer: Arc<dyn DeviceObserver>) -> Observed {
        device.observe(&observer);
        Observed { device, observer }
    }

    /// Calls the device, and reports the start and the end of the call.
    fn call(
        &mut self,
        begin: Event,
        queues: &mut Queues,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Queues) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        // Each reset replaces the queues. This is where the wrapper first sees the new ones.
        queues.observe(&self.observer);
        self.observer.see(begin);
        let result = call(&mut *self.device, queues);
        self.observer.see(match result {
            Ok(()) => Event::Idle,
            Err(_) => Event::QueueError,
        });
        result
    }
}

/// The index of a queue or a file: there are fewer than a hundred of either.
fn index_u16(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl VirtioDevice for Observed {
    fn id(&self) -> DeviceId {
        self.device.id()
    }

    fn queues(&self) -> &[u16] {
        self.device.queues()
    }

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.device.config()
    }

    fn activate(&mut self, features: u64, memory: &Memory) {
        self.device.activate(features, memory);
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let queue = index_u16(index);
        if self.observer.wants_rings()
            && let Some(kicked) = queues.get(index)
        {
            self.observer.rings(queue, kicked.view());
        }
        let begin = Event::Kicked { queue };
        self.call(begin, queues, |device, queues| {
            device.process_queue(index, queues)
        })
    }

    fn inline_notify(&self, index: usize) -> bool {
        self.device.inline_notify(index)
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        self.device.files()
    }

    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let begin = Event::Ready { file: index_u16(index) };
        self.call(begin, queues, |device, queues| {
            device.handle_event(index, queues)
        })
    }

    fn queue_reset(&mut self, index: usize) {
        self.device.queue_reset(index);
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}

/// An interrupt line that reports when it is driven high.
pub struct ObservedLine {
    line: Box<dyn IrqLine>,
    observer: Arc<dyn DeviceObserver>,
}

impl ObservedLine {
    /// Wraps `line`: `observer` is notified each time it is driven high.
    pub fn new(line: Box<dyn IrqLine>, observer: Arc<dyn DeviceObserver>) -> ObservedLine {
        ObservedLine { line, observer }
    }
}

impl IrqLine for ObservedLine {
    fn set(&self, high: bool) {
        if high {
            self.observer.see(Event::Raised);
        }
        self.line.set(high);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "observed_test.rs"]
mod tests;
