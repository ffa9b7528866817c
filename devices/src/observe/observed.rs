//! A device and an interrupt wire that tell a [`DeviceObserver`] what they do.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::irq::IrqLine;
use crate::memory::Memory;
use crate::observe::{DeviceObserver, Event};
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

/// A device that reports what it does: a device like any other.
pub struct Observed {
    device: Box<dyn VirtioDevice>,
    observer: Arc<dyn DeviceObserver>,
}

impl Observed {
    /// `device`, with `observer` told what it does.
    pub fn new(mut device: Box<dyn VirtioDevice>, observer: Arc<dyn DeviceObserver>) -> Observed {
        device.observe(&observer);
        Observed { device, observer }
    }

    /// Calls the device, and tells how that began and ended.
    fn call(
        &mut self,
        begin: Event,
        queues: &mut Queues,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Queues) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        // Queues come and go with resets; here is the first we see of them.
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

/// An index of a queue or a file: there are no more than a hundred of either.
fn narrow(index: usize) -> u16 {
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
        let queue = narrow(index);
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
        let begin = Event::Ready {
            file: narrow(index),
        };
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
    /// `line`, with `observer` told when it is driven high.
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
