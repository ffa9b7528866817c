//! What can be recorded of a run of `hartvisor`, and shown afterwards.
//!
//! ```text
//!   vmm ── observers ─┬─ stats ── report     counters; JSON, or a table on stderr
//!                     ├─ trace ── show       events with times, for Perfetto; one request's life
//!                     ├─ rings               what queues held; as text, as a drawing
//!                     ├─ exit                exits of vCPUs as numbers, and their names
//!                     └─ smaps               a process's memory
//! ```
//!
//! Devices report events through [`devices::observe`]; the monitor reports exits of vCPUs, and when a
//! VM starts and stops. Nothing here knows a hypervisor, a board or a command line. The monitor can
//! be built without this crate (`--no-default-features`).

mod error;
pub mod exit;
mod observers;
pub mod rings;
pub mod smaps;
pub mod stats;
pub mod trace;

pub use error::Error;
pub use exit::{Exit, Names, Place};
pub use observers::{Observers, Options, VcpuRecorder};
