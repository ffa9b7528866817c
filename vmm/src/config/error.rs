//! Values that do not make a machine.

use crate::error::Class;

/// Values that do not make a machine.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum ConfigError {
    /// The command line is longer than the guest can keep.
    #[error("--cmdline has {length} bytes, at most {limit} are possible: {why}")]
    CommandLine { length: usize, limit: usize, why: &'static str },

    /// The command line would end for the guest before its end.
    #[error("--cmdline has a NUL at byte {at}, where it would end for the guest")]
    CommandLineNul { at: usize },

    /// The RAM asked for is none that the board can have.
    #[error("--memory {given}: {problem}")]
    Memory { given: String, problem: String },

    /// The RAM asked for is more than the host has, RAM and swap together.
    #[error("--memory {given}: this host has {available} of RAM and swap; give less than that")]
    HostMemory { given: String, available: String },

    /// The number of vCPUs is not one that can run.
    #[error("--cpus {given}: expected 1 to {limit}, {why}")]
    Cpus { given: u32, limit: u32, why: &'static str },

    /// More disks than there are virtio-mmio slots.
    #[error("{given} disks, at most {limit} fit: of {whose} {slots} virtio-mmio slots {taken}")]
    TooManyDisks { given: usize, limit: usize, whose: &'static str, slots: usize, taken: String },

    /// More ports than the console can have.
    #[error("--port is given {given} times, the virtio console has room for {limit}")]
    TooManyPorts { given: usize, limit: usize },

    /// Programs in the guest find a port by its name.
    #[error("two ports have the name {name:?}")]
    PortTwice { name: String },

    /// Both consoles or ports would write over each other.
    #[error("{first} and {second} are both {target}: give each its own")]
    SameTarget { first: String, second: String, target: String },
}

impl ConfigError {
    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        match self {
            ConfigError::HostMemory { .. } => Class::Host,
            _ => Class::Usage,
        }
    }
}
