//! What serves the queues behind a transport's registers: a device of this process, or one of
//! another process ([`remote`](super::remote)).

use std::sync::Arc;

use crate::memory::Memory;
use crate::virtio::lifecycle::Lifecycle;
use crate::virtio::queue::{Queue, QueueConfig};
use crate::virtio::{Notify, QueueError, Queues};

/// A device as its transport drives it, in the states of [`Lifecycle`].
///
/// Once `pause`, `reset` or `replace_queue` has returned, the queues that they stopped are not
/// accessed.
pub(crate) trait Backend: Send {
    /// The driver has accepted `features`.
    fn activate(&mut self, features: u64);

    /// Serves the queues that are ready, with the accepted features. If one is invalid, the device
    /// needs a reset.
    fn start(&mut self, queues: &[QueueConfig]);

    /// In a live device, replaces queue `index` by what `config` describes, or by none if that is
    /// not ready. The other queues continue.
    fn replace_queue(&mut self, index: usize, config: &QueueConfig);

    /// Stops a live device until `resume`.
    fn pause(&mut self);

    /// Resumes a paused device.
    fn resume(&mut self);

    /// Resets the device to its initial state.
    fn reset(&mut self);
}

/// A device of this process.
pub(crate) struct InProcess {
    device: Lifecycle,
    memory: Memory,
    notify: Arc<dyn Notify>,
    accepted: u64,
}

impl InProcess {
    /// The driver's buffers are in `memory`; `notify` notifies it.
    pub(crate) fn new(device: Lifecycle, memory: Memory, notify: Arc<dyn Notify>) -> Self {
        InProcess { device, memory, notify, accepted: 0 }
    }

    /// Activates the queue that `config` describes; `None` if it is not ready.
    fn queue(&self, config: &QueueConfig) -> Result<Option<Queue>, QueueError> {
        let notify = || Arc::clone(&self.notify);
        let activate = || config.activate(&self.memory, self.accepted, notify());
        config.ready.then(activate).transpose()
    }
}

impl Backend for InProcess {
    fn activate(&mut self, features: u64) {
        self.accepted = features;
        self.device.activate(features, &self.memory);
    }

    fn start(&mut self, queues: &[QueueConfig]) {
        let queues: Result<Vec<_>, _> = queues.iter().map(|config| self.queue(config)).collect();
        match queues {
            Ok(queues) => self.device.start(Queues::new(queues)),
            Err(invalid) => self.device.set_broken(&invalid),
        }
    }

    fn replace_queue(&mut self, index: usize, config: &QueueConfig) {
        if !self.device.is_live() {
            return;
        }
        let queue = self.queue(config).unwrap_or_else(|invalid| {
            self.device.set_broken(&invalid);
            None
        });
        self.device.replace_queue(index, queue);
    }

    fn pause(&mut self) {
        self.device.pause();
    }

    fn resume(&mut self) {
        self.device.resume();
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}
