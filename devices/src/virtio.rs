//! Virtio without transports: the device trait, the queues, and the thread that serves them.
//!
//! ```text
//!   lifecycle   offered, live, paused, lost
//!   worker      the device's thread
//!   device      the device model trait            notify   notifications to the driver
//!   queue       the split virtqueue: chain, descriptor
//! ```

pub mod chain;
pub(crate) mod descriptor;
pub mod device;
mod error;
pub(crate) mod lifecycle;
mod notify;
pub mod queue;
mod stop;
pub(crate) mod worker;

pub use self::device::{ConfigSpace, Queues, Ready, VirtioDevice};
pub use self::error::QueueError;
pub use self::notify::Notify;
pub use crate::spec::{DeviceId, features, status};
