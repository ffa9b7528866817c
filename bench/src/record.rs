//! What `meter` reports of one start of a VMM: a line of JSON each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::smaps::Memory;

/// What is measured in a start: counting takes time, so never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// How long it takes.
    Time,
    /// How often what happens.
    Count,
}

/// One start, from exec to exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured.
    pub measure: Measure,
    /// Nanoseconds between the stations of the start.
    pub times: Times,
    /// The VMM's memory, before the guest powers off.
    pub memory: Memory,
    /// From exec to the guest's init.
    pub boot: Counts,
    /// By the name of the test.
    pub tests: BTreeMap<String, Measured>,
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Exec to the first KVM_RUN.
    pub run: u64,
    /// Exec to the guest kernel's first line.
    pub output: u64,
    /// Exec to the first line of the guest's init.
    pub init: u64,
    /// From the guest's request to power off, as it leaves KVM, to the VMM's exit.
    pub exit: u64,
}

/// One test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How many operations it made.
    pub operations: u64,
    /// Nanoseconds of the guest's clock for all.
    pub nanoseconds: u64,
    /// Of all operations, and of the protocol.
    pub counts: Counts,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The guest left for KVM.
    pub exits: u64,
    /// … by a guest page fault: a page not there yet, or a device's register.
    pub faults: u64,
    /// KVM left for the VMM.
    pub userspace: u64,
    /// System calls of the VMM.
    pub syscalls: u64,
    /// Context switches of its threads.
    pub switches: u64,
    /// Its instructions in user mode; 0 where the CPU cannot count them.
    pub instructions: u64,
}

impl Counts {
    /// Each with its name.
    pub fn named(self) -> [(&'static str, u64); 6] {
        [
            ("exits", self.exits),
            ("faults", self.faults),
            ("userspace exits", self.userspace),
            ("syscalls", self.syscalls),
            ("switches", self.switches),
            ("instructions", self.instructions),
        ]
    }

    /// What came since `earlier`.
    pub fn since(self, earlier: Counts) -> Counts {
        Counts {
            exits: self.exits.saturating_sub(earlier.exits),
            faults: self.faults.saturating_sub(earlier.faults),
            userspace: self.userspace.saturating_sub(earlier.userspace),
            syscalls: self.syscalls.saturating_sub(earlier.syscalls),
            switches: self.switches.saturating_sub(earlier.switches),
            instructions: self.instructions.saturating_sub(earlier.instructions),
        }
    }
}
