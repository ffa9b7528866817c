//! Virtio below its transports: the device trait, the queues, and the thread that calls the one for
//! the other.

pub mod chain;
pub(crate) mod descriptor;
pub mod device;
mod error;
pub mod queue;
pub mod worker;

pub use self::device::{ConfigSpace, Queues, Ready, VirtioDevice};
pub use self::error::QueueError;
pub use crate::spec::{DeviceId, features, status};
