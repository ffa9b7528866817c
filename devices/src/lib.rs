//! virtio devices without a VM.
//!
//! ```text
//!              registers                   socket messages
//!            ┌───────────┐  QueueConfig  ┌────────────┐
//!   vCPU ───▶│ mmio      │──┐         ┌──│ vhost_user │◀─── front end   two transports
//!            └───────────┘  └activate─┘  └────────────┘
//!                               ▼
//!   kick ───────────────▶┌─────────────┐
//!   (eventfd)            │ worker      │ one thread a device, and a lock that it has nearly alone
//!                        └──────┬──────┘
//!              ┌────────────────┼──────────────┐
//!          ┌───▼───┐       ┌────▼────┐    ┌────▼───┐
//!          │ block │       │ console │    │   …    │ pure device models
//!          └───┬───┘       └────┬────┘    └────┬───┘
//!              └────────────────┼──────────────┘
//!             ┌─────────────────▼──────────────────┐
//!             │ virtio ─ queue ─ chain ─ memory, irq│
//!             └────────────────────────────────────┘
//! ```
//!
//! A transport is whatever fills in [`queue::QueueConfig`]s and starts a [`worker::Worker`]. A device knows no
//! transport, thread, interrupt controller or hypervisor, so each can be tested and fuzzed in one process.
//!
//! Nothing here panics, hangs or grows because of what a guest writes.

#![cfg_attr(loom, allow(dead_code, reason = "loom is there for a few tests"))]

pub mod block;
pub mod console;
pub mod irq;
pub mod memory;
pub mod observe;
pub mod platform;
pub mod rng;
pub mod spec;
mod sync;
pub mod transport;
pub mod virtio;

#[cfg(test)]
mod rig;
