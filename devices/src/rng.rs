//! The entropy device (§ 5.4): random bytes from the host. It is the smallest device, and the
//! example to copy for a new one.

use std::sync::Arc;

use log::warn;

use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice};

const QUEUE_SIZE: u16 = 64;

/// The most bytes per request, however large its buffer is. The used length tells the driver how
/// many bytes it got, and it asks again.
pub const REQUEST_MAX: usize = 4096;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng(());

impl VirtioDevice for Rng {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        // § 5.4.4: none.
        Arc::new(Vec::new())
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(index) else {
            return Ok(());
        };
        queue.drain(|chain| {
            let mut bytes = [0; REQUEST_MAX];
            let room = usize::try_from(chain.writable().len()).unwrap_or(REQUEST_MAX);
            let part = bytes.get_mut(..room.min(REQUEST_MAX)).unwrap_or_default();
            match getrandom::fill(part) {
                // No more than REQUEST_MAX.
                Ok(()) => Some(u32::try_from(chain.writable().write(part)).unwrap_or(0)),
                Err(error) => {
                    // Linux 3.17 and later always have random numbers. No bytes are better than
                    // zeroes.
                    warn!("rng: {error}");
                    Some(0)
                }
            }
        })
    }
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod tests;
