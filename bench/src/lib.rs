//! Measures reproducibly what it costs to run a guest with hartvisor and with other VMMs.
//!
//! ```text
//!   bench ──── this machine: what to measure, then the table, JSON and comparisons
//!     │ plan                                        ▲ records
//!   lab/run --icount ── an emulated host with one CPU, whose clock counts instructions
//!     │                                             │
//!   meter ──── starts a VMM, again and again: times by its clock, counts by perf
//!     │ go                                          ▲ ready, done (protocol)
//!   load ───── the guest's init: reads, writes, prints, and verifies every byte
//! ```
//!
//! In a test of the network, `load` and `meter` are the two ends (`traffic`).
//!
//! `load` stops before each test until `meter` has read its counters, so a count belongs to one
//! test. An empty test (`null`) gives the cost of that, which is subtracted. Times come from
//! separate starts without counters.

pub mod compare;
pub mod cpio;
pub mod metrics;
pub mod pattern;
pub mod plan;
pub mod protocol;
pub mod record;
pub mod results;
pub mod scale;
pub mod smaps;
pub mod table;
pub mod template;
pub mod traffic;
