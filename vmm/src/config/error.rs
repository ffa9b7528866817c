//! Errors of configuration values.

use crate::error::Class;

/// A value, or several together, are not a valid machine.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum ConfigError {
    /// The command line is longer than the guest supports.
    #[error("--cmdline has {length} bytes, at most {limit} are possible: {why}")]
    CommandLine { length: usize, limit: usize, why: &'static str },

    /// The guest's command line would end at the NUL.
    #[error("--cmdline has a NUL at byte {at}, where it would end for the guest")]
    CommandLineNul { at: usize },

    /// There is neither a kernel nor a disk to boot.
    #[error(
        "nothing to start: --kernel FILE starts a kernel, --disk FILE alone boots the system of that disk by firmware"
    )]
    NothingToStart,

    /// The firmware would not use this option.
    #[error(
        "{option} needs --kernel: without one, firmware boots a disk, which has its own kernel, initrd and command line"
    )]
    ForKernel { option: &'static str },

    /// A guest starts at one of the two.
    #[error(
        "--kernel and --firmware are both given: firmware boots the kernel of a disk, so give one of them"
    )]
    KernelAndFirmware,

    /// No firmware is installed.
    #[error(
        "no firmware to boot the disk: none of {tried} exists; install Debian's u-boot-qemu, or give --firmware FILE (or --kernel FILE)"
    )]
    NoFirmware { tried: String },

    /// The board cannot have this amount of RAM.
    #[error("--memory {given}: {problem}")]
    Memory { given: String, problem: String },

    /// The guest's RAM exceeds the host's RAM and swap together.
    #[error("--memory {given}: this host has {available} of RAM and swap; give less than that")]
    HostMemory { given: String, available: String },

    /// The host does not have the requested huge pages.
    #[error(
        "--memory hugepages=on: {needed} huge pages of 2M are needed, {free} are free (as root: echo {needed} > /proc/sys/vm/nr_hugepages)"
    )]
    HugePages { needed: u64, free: u64 },

    /// The number of vCPUs is not supported.
    #[error("--cpus {given}: expected 1 to {limit}, {why}")]
    Cpus { given: u32, limit: u32, why: &'static str },

    /// There are more disks than virtio-mmio slots.
    #[error("{given}, at most {limit} fit: of {whose} {slots} virtio-mmio slots {taken}")]
    TooManyDisks { given: String, limit: usize, whose: &'static str, slots: usize, taken: String },

    /// There are more ports than the console supports.
    #[error("--port is given {given} times, the virtio console has at most {limit}")]
    TooManyPorts { given: usize, limit: usize },

    /// Two ports have the same name, by which programs in the guest find them.
    #[error("two ports have the name {name:?}")]
    PortTwice { name: String },

    /// Two consoles or ports share an output.
    #[error("{first} and {second} are both {target}: give each its own")]
    SameTarget { first: String, second: String, target: String },
}

impl ConfigError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            ConfigError::HostMemory { .. }
            | ConfigError::HugePages { .. }
            | ConfigError::NoFirmware { .. } => Class::Host,
            _ => Class::Usage,
        }
    }
}
