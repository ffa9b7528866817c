//! The output of `meter` for one start of a VMM: one line of JSON per start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::smaps::Memory;

/// What is measured in a start. Counting takes time, so it is never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Times.
    Time,
    /// Counts of events.
    Count,
}

/// One start, from exec to exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured.
    pub measure: Measure,
    /// Nanoseconds between the stages of the start.
    pub times: Times,
    /// The VMM's memory before the guest powers off.
    pub memory: Memory,
    /// From exec to the guest's init.
    pub boot: Counts,
    /// The results by the name of the test.
    pub tests: BTreeMap<String, Measured>,
}

/// Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Exec to the first KVM_RUN.
    pub run: u64,
    /// Exec to the guest kernel's first line.
    pub output: u64,
    /// Exec to the first line of the guest's init.
    pub init: u64,
    /// From the exit of the guest's power-off request to the VMM's exit.
    pub exit: u64,
}

/// One test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number of operations.
    pub operations: u64,
    /// Nanoseconds of the guest's clock for all operations.
    pub nanoseconds: u64,
    /// The guest's interrupts from virtio devices, with those of the protocol.
    pub interrupts: u64,
    /// Frames that its network card sent and received.
    pub frames: u64,
    /// Counts of all operations and of the protocol.
    pub counts: Counts,
}

/// Counts of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Exits from the guest to KVM.
    pub exits: u64,
    /// … of which guest page faults: a page that is not mapped yet, or a device register.
    pub faults: u64,
    /// Exits from KVM to the VMM.
    pub userspace: u64,
    /// System calls of the VMM.
    pub syscalls: u64,
    /// Context switches of its threads.
    pub switches: u64,
    /// Its instructions in user mode; 0 if the CPU cannot count them.
    pub instructions: u64,
}

impl Counts {
    /// Returns the counts with their names.
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

    /// Returns the difference to `earlier`.
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
