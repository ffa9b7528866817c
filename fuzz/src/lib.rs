//! Fuzzing: what a guest may do, or write into a file, as values; and what must hold afterwards.
//!
//! ```text
//!   bytes ──arbitrary──▶ a case: steps of a guest, mostly valid ──▶ the device (no threads, where it can be had)
//!                                        │                               │  the same memory, byte for byte?
//!                                        └──────▶ model: slow, plain ────┘
//! ```
//! A target is a file of one line in `targets/`; the cases are here, so that they are checked and
//! documented as all else. `make fuzz` runs them; docs/testing.md lists what they found.

pub mod block;
pub mod console;
pub mod driver;
pub mod fdt;
pub mod file;
pub mod kernel;
pub mod mmio;
pub mod model;
pub mod patience;
pub mod queue;
pub mod ram;
pub mod seeds;
pub mod vhost_user;
