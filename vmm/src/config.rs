//! What a guest is made of, as plain values: no command line, nothing opened.
//!
//! ```text
//!   command line (cli), config file ──▶ values ── validate ──▶ machine: what they name, opened
//! ```
//! A value with a text form (`FILE,KEY=VALUE`, …) reads and writes it itself, so that each way to state it is the same one.

mod console;
mod disk;
mod error;
mod kernel;
mod keys;
mod memory;
mod validate;

pub use error::ConfigError;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use console::{Port, Target};
pub use disk::{Disk, DiskFormat};
pub use kernel::{Kernel, KernelFormat};
pub use keys::double_commas;
pub use memory::{HugePages, Memory};

use crate::isa::{self, Switch};

/// The machine of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, passed unchanged.
    #[serde(default)]
    pub cmdline: String,
    /// The user's own device tree, instead of the one that describes the machine.
    #[serde(default)]
    pub dtb: Option<PathBuf>,
    /// Number of vCPUs.
    #[serde(default = "one")]
    pub cpus: u32,
    /// RAM.
    #[serde(default)]
    pub memory: Memory,
    /// What takes interrupts to the harts.
    #[serde(default)]
    pub irqchip: Irqchip,
    /// ISA extensions that the guest is to have or not to have.
    #[serde(default, deserialize_with = "isa::isa_switches")]
    pub isa: Vec<Switch>,
    /// SBI extensions that the guest is to have or not to have.
    #[serde(default, deserialize_with = "isa::sbi_switches")]
    pub sbi: Vec<Switch>,
    /// The disks, in the guest's order.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Whether there is a virtio source of random numbers.
    #[serde(default = "yes")]
    pub rng: bool,
    /// Where the virtio console leads to.
    #[serde(default)]
    pub console: Target,
    /// Where the serial port and the SBI console lead to.
    #[serde(default)]
    pub serial: Target,
    /// Further ports of the virtio console.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Whose disks and random numbers a guest under QEMU has.
    #[serde(default)]
    pub devices: Devices,
    /// A guest that reboots ends the run, with this exit status, instead of starting anew.
    #[serde(default)]
    pub no_reboot: Option<u8>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Machine {
    /// One that starts `kernel`, with the defaults of the command line.
    pub fn new(kernel: Kernel) -> Self {
        Machine {
            kernel,
            initrd: None,
            cmdline: String::new(),
            dtb: None,
            cpus: one(),
            memory: Memory::default(),
            irqchip: Irqchip::default(),
            isa: Vec::new(),
            sbi: Vec::new(),
            disks: Vec::new(),
            rng: yes(),
            console: Target::default(),
            serial: Target::default(),
            ports: Vec::new(),
            devices: Devices::default(),
            no_reboot: None,
        }
    }
}

/// A run of a machine: what runs it, and what is written of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The machine.
    pub machine: Machine,
    /// What runs it.
    pub accel: Accel,
    /// Where to write the guest's device tree, instead of running the guest.
    pub dump_dtb: Option<PathBuf>,
    /// Print the QEMU command instead of running it.
    pub print_command: bool,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
    /// What is written while the guest runs.
    pub observe: Observe,
}

/// Where observers write to, each if it is wanted.
#[derive(Clone, Debug, Default)]
pub struct Observe {
    /// Counts and times; `-` is stderr.
    pub stats: Option<PathBuf>,
    /// What vCPUs and devices do.
    pub trace: Option<PathBuf>,
    /// What the queues' rings hold.
    pub rings: Option<PathBuf>,
}

/// One device on a socket, for front ends such as QEMU.
#[derive(Clone, Debug)]
pub struct VhostUser {
    /// The Unix socket where front ends connect.
    pub socket: PathBuf,
    /// The device.
    pub device: BackEnd,
    /// End when the first front end has disconnected.
    pub once: bool,
}

/// A device that is served to front ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// A disk.
    Block(Disk),
    /// A source of random numbers.
    Rng,
}

impl BackEnd {
    /// Reads `rng`, or `block,path=` and what [`Disk::parse`] reads.
    ///
    /// # Errors
    /// The text names no device; the message says what would.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        match text.as_bytes().strip_prefix(b"block,") {
            Some(disk) if disk.starts_with(b"path=") => {
                Disk::parse(OsStr::from_bytes(disk)).map(BackEnd::Block)
            }
            None if text == "rng" => Ok(BackEnd::Rng),
            _ => Err("expected block,path=FILE[,readonly][,serial=TEXT] or rng".into()),
        }
    }
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where it is RISC-V and usable, else QEMU.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// QEMU with its own CPU emulation (TCG).
    Qemu,
}

/// Whose devices a guest under QEMU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Devices {
    /// Hartvisor's, as under KVM: they are served to QEMU (vhost-user).
    #[default]
    Ours,
    /// QEMU's own, for comparison.
    Qemu,
}

/// What takes the devices' interrupts to the harts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Irqchip {
    /// The in-kernel AIA where KVM has one that works, else a PLIC.
    #[default]
    Auto,
    /// The in-kernel AIA (APLIC and IMSIC), or an error.
    Aia,
    /// A PLIC in user space, which every host can have.
    Plic,
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
