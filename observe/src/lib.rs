//! Recordings of a run of `hartvisor`, and the tools that show them.
//!
//! ```text
//!   vmm ── observers ─┬─ stats ── report     counters: JSON, or a table on stderr
//!                     ├─ trace ── show       timed events for Perfetto; one request's life
//!                     ├─ rings               contents of queues, as text or a drawing
//!                     ├─ exit                exits of vCPUs as numbers, and their names
//!                     └─ smaps               a process's memory
//! ```
//!
//! Devices report events through [`devices::observe`]. The monitor reports exits of vCPUs, and when
//! a VM starts and stops. This crate knows no hypervisor, board or command line. The monitor can be
//! built without it (`--no-default-features`).

mod error;
pub mod exit;
mod observers;
pub mod rings;
mod sink;
pub mod smaps;
pub mod stats;
pub mod trace;

pub use error::Error;
pub use exit::{Exit, Names, Place};
pub use observers::{Observers, Options, VcpuRecorder};
