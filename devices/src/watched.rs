//! A device and an interrupt wire that tell a [`Watch`] what they do.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::irq::IrqLine;
use crate::memory::Memory;
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};
use crate::watch::{Event, Watch};

/// A device that is watched: a device as any other.
pub struct Watched {
    device: Box<dyn VirtioDevice>,
    watch: Arc<dyn Watch>,
}

impl Watched {
    /// `device`, with `watch` told what it does.
    pub fn new(mut device: Box<dyn VirtioDevice>, watch: Arc<dyn Watch>) -> Watched {
        device.watch(&watch);
        Watched { device, watch }
    }

    /// Calls the device, and tells how that began and ended.
    fn call(
        &mut self,
        begin: Event,
        queues: &mut Queues,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Queues) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        // Queues come and go with resets; here is the first we see of them.
        queues.watch(&self.watch);
        self.watch.see(begin);
        let result = call(&mut *self.device, queues);
        self.watch.see(match result {
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

impl VirtioDevice for Watched {
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
        if self.watch.wants_rings()
            && let Some(kicked) = queues.get(index)
        {
            self.watch.rings(queue, kicked.view());
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

/// A wire that is watched.
pub struct WatchedLine {
    line: Box<dyn IrqLine>,
    watch: Arc<dyn Watch>,
}

impl WatchedLine {
    /// `line`, with `watch` told when it is driven high.
    pub fn new(line: Box<dyn IrqLine>, watch: Arc<dyn Watch>) -> WatchedLine {
        WatchedLine { line, watch }
    }
}

impl IrqLine for WatchedLine {
    fn set(&self, high: bool) {
        if high {
            self.watch.see(Event::Raised);
        }
        self.line.set(high);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "watched_test.rs"]
mod tests;
