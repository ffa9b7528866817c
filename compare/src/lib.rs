//! `hartvisor compare`: one guest, run in every way that this machine supports, side by side.
//!
//! ```text
//!   main ── cli ─────────────────── the options of `hartvisor run`, and those of the comparison
//!    │
//!    ├── ways ── template           what can run the guest here, each as a command, or why not
//!    ├── lab ────────┐              a plan goes into the emulated host, observations come back
//!    ├── observe ────┴─ memory      starts a command repeatedly: its output, times, exit status
//!    │     plan ▲
//!    ├── report ─ transcript ─ latency   the observations side by side; what JSON holds
//!    │            spread
//!    └── table, page ─ figure       the report as text, as a page with pictures
//! ```
//!
//! Imports run downward only. Nothing here runs a guest: it starts `hartvisor` and QEMU as a user
//! would. So the monitor itself contains none of this code, and peers are treated alike.

pub mod cli;
pub mod clock;
pub mod counts;
pub mod error;
pub mod figure;
pub mod lab;
pub mod latency;
pub mod memory;
pub mod observe;
pub mod page;
pub mod plan;
pub mod report;
pub mod spread;
pub mod table;
pub mod template;
pub mod transcript;
pub mod ways;
