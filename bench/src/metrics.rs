//! Metrics: numbers by name, and the names shared by starts and scenes.

use std::collections::BTreeMap;

/// A metric's value, by its name with its unit.
pub type Metrics = BTreeMap<String, f64>;

/// Names of the metrics of a start as a whole.
pub mod name {
    /// Size of the stripped program.
    pub const BINARY: &str = "binary, KiB";
    /// Exec to KVM_RUN.
    pub const RUN: &str = "exec to first KVM_RUN, ms";
    /// Exec to the first line of the guest's kernel.
    pub const OUTPUT: &str = "exec to kernel's first line, ms";
    /// Exec to init.
    pub const INIT: &str = "exec to guest's init, ms";
    /// Power-off to exit.
    pub const EXIT: &str = "power-off to exit, ms";
    /// Memory.
    pub const PSS: &str = "memory: PSS, KiB";
    /// Memory.
    pub const ANONYMOUS: &str = "memory: anonymous, KiB";
}

/// Whether more of this metric is better. For most, less is better.
pub fn more_is_better(metric: &str) -> bool {
    metric.ends_with("MiB/s")
}
