//! virtio devices without a VM.
//!
//! ```text
//!              registers                   socket messages
//!            ┌───────────┐  QueueConfig  ┌────────────┐
//!   vCPU ───▶│ mmio      │──┐         ┌──│ vhost_user │◀─── front end   transport
//!            └───────────┘  └─start───┘  └────────────┘
//!                               ▼
//!                        ┌─────────────┐
//!   kick ───────────────▶│ lifecycle   │ one thread per device, behind an almost
//!   (eventfd)            │ worker      │ uncontended lock
//!                        └──────┬──────┘
//!              ┌────────────────┼──────────────┐
//!          ┌───▼───┐       ┌────▼────┐    ┌────▼───┐
//!          │ block │       │ console │    │   …    │ pure device models
//!          └───┬───┘       └────┬────┘    └────┬───┘
//!              └────────────────┼──────────────┘
//!             ┌─────────────────▼──────────────────┐
//!             │ virtio: device, queue, chain       │
//!             │ memory                             │
//!             └────────────────────────────────────┘
//! ```
//!
//! A transport fills in [`virtio::queue::QueueConfig`]s and starts the device with them. A device
//! knows no transport, thread, interrupt controller or hypervisor, so each can be tested and fuzzed
//! in one process. [`platform`] has the board's other devices.
//!
//! No guest input makes this code panic, hang or grow.

#![cfg_attr(loom, allow(dead_code, reason = "only a few tests run under loom"))]

pub mod balloon;
pub mod block;
pub mod console;
mod contain;
pub mod input;
pub mod irq;
pub mod memory;
pub mod net;
pub mod observe;
pub mod output;
pub mod platform;
pub mod rng;
mod signal;
pub mod spec;
mod sync;
mod timer;
pub mod transport;
pub mod virtio;
pub mod vsock;

#[cfg(test)]
mod rig;

pub use contain::{CONTAINED, report_if_contained};
pub use sync::lock;
