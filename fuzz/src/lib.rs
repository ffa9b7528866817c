//! Fuzzing: the actions of a guest, or the content of a file, as values; and the checks that must
//! hold afterwards.
//!
//! ```text
//!   bytes ──arbitrary──▶ a case: steps of a guest, mostly valid ──▶ the device
//!                                  │                        (without threads, if possible)
//!                                  │                                    │ equal memory?
//!                                  └──────▶ model: slow, simple ────────┘
//! ```
//! A target is a file of one line in `targets/`. The cases are here, so that lints and
//! documentation cover them. `make fuzz` runs them; docs/testing.md lists their findings.

pub mod balloon;
pub mod block;
pub mod console;
pub mod driver;
pub mod fdt;
pub mod file;
pub mod input;
pub mod kernel;
pub mod line;
pub mod mmio;
pub mod model;
pub mod net;
pub mod qcow2;
pub mod qcow2_image;
pub mod queue;
pub mod ram;
pub mod seeds;
pub mod vhost_user;
pub mod vsock;
pub mod wait;
