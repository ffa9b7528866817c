//! The configuration of a guest as plain values, independent of the command line. Nothing is
//! opened.
//!
//! ```text
//!   command line (cli), config file ──▶ values ── validate ──▶ machine: the named files, opened
//! ```
//! A value with a text form (`FILE,KEY=VALUE`, …) parses and formats itself, so the form is the
//! same everywhere.

mod balloon;
mod cloud_init;
mod console;
mod disk;
mod error;
mod kernel;
mod keys;
mod memory;
mod net;
mod remote;
mod share;
mod validate;
mod vsock;

pub use error::ConfigError;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use balloon::Balloon;
pub(crate) use balloon::check_size as check_balloon_size;
pub use cloud_init::CloudInit;
pub use console::{Port, Target};
pub use disk::{Disk, DiskFormat};
pub use kernel::{Kernel, KernelFormat};
pub use keys::double_commas;
pub use memory::{HugePages, Memory};
pub use net::{Forward, Net};
pub use remote::{Remote, RemoteType};
pub use share::{Share, ShareSandbox};
pub use vsock::Vsock;

use crate::isa::{self, Switch};

/// The configuration of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Machine {
    /// The kernel. Without one, firmware boots a disk.
    #[serde(default)]
    pub kernel: Option<Kernel>,
    /// The firmware, if there is no kernel and it is not the installed one.
    #[serde(default)]
    pub firmware: Option<PathBuf>,
    /// The initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, passed unchanged.
    #[serde(default)]
    pub cmdline: String,
    /// The user's device tree, instead of the generated one.
    #[serde(default)]
    pub dtb: Option<PathBuf>,
    /// Number of vCPUs.
    #[serde(default = "one")]
    pub cpus: u32,
    /// RAM.
    #[serde(default)]
    pub memory: Memory,
    /// The interrupt controller.
    #[serde(default)]
    pub irqchip: Irqchip,
    /// ISA extensions to enable or disable.
    #[serde(default, deserialize_with = "isa::isa_switches")]
    pub isa: Vec<Switch>,
    /// SBI extensions to enable or disable.
    #[serde(default, deserialize_with = "isa::sbi_switches")]
    pub sbi: Vec<Switch>,
    /// The disks, in the guest's order.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// The files of cloud-init's disk, which comes after the others.
    #[serde(default)]
    pub cloud_init: Option<CloudInit>,
    /// The network cards.
    #[serde(default)]
    pub nets: Vec<Net>,
    /// The socket device, if there is one.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// The devices that other processes serve.
    #[serde(default)]
    pub vhost_user: Vec<Remote>,
    /// The directories that the guest can mount.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The memory balloon.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// Whether there is a virtio random number generator.
    #[serde(default = "yes")]
    pub rng: bool,
    /// Whether there is a virtio input device with a power key.
    #[serde(default = "yes")]
    pub power_key: bool,
    /// How long a guest that was asked to power off may take, in seconds. 0: it is not asked.
    #[serde(default = "shutdown_timeout")]
    pub shutdown_timeout: u32,
    /// Back end of the virtio console.
    #[serde(default)]
    pub console: Target,
    /// Back end of the serial port and the SBI console.
    #[serde(default)]
    pub serial: Target,
    /// Additional ports of the virtio console.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Which program implements the virtio devices under QEMU.
    #[serde(default)]
    pub devices: Devices,
    /// If set, a reboot ends the run with this exit status instead of restarting the guest.
    #[serde(default)]
    pub no_reboot: Option<u8>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Less than the 90 s after which systemd kills a service.
pub(crate) fn shutdown_timeout() -> u32 {
    60
}

impl Machine {
    /// Creates a machine that starts `kernel`, with the defaults of the command line.
    pub fn new(kernel: Kernel) -> Self {
        Machine { kernel: Some(kernel), ..Machine::empty() }
    }

    /// Creates a machine whose firmware boots one of `disks`, with the defaults of the command
    /// line.
    pub fn from_disks(disks: Vec<Disk>) -> Self {
        Machine { disks, ..Machine::empty() }
    }

    fn empty() -> Self {
        Machine {
            kernel: None,
            firmware: None,
            initrd: None,
            cmdline: String::new(),
            dtb: None,
            cpus: one(),
            memory: Memory::default(),
            irqchip: Irqchip::default(),
            isa: Vec::new(),
            sbi: Vec::new(),
            disks: Vec::new(),
            cloud_init: None,
            nets: Vec::new(),
            vsock: None,
            vhost_user: Vec::new(),
            shares: Vec::new(),
            balloon: None,
            rng: yes(),
            power_key: yes(),
            shutdown_timeout: shutdown_timeout(),
            console: Target::default(),
            serial: Target::default(),
            ports: Vec::new(),
            devices: Devices::default(),
            no_reboot: None,
        }
    }

    /// Whether another process serves a device, so that it must map the guest's memory.
    pub(crate) fn has_back_ends(&self) -> bool {
        let cards = self.nets.iter().any(|net| net.vhost_user);
        cards || !self.vhost_user.is_empty() || !self.shares.is_empty()
    }

    /// Returns the number of disks, with cloud-init's.
    pub(crate) fn disk_count(&self) -> usize {
        self.disks.len() + usize::from(self.cloud_init.is_some())
    }
}

/// A run of a machine: the accelerator, and what to write.
#[derive(Clone, Debug)]
pub struct Run {
    /// The machine.
    pub machine: Machine,
    /// The accelerator.
    pub accel: Accel,
    /// Where to write the guest's device tree, instead of running the guest.
    pub dump_dtb: Option<PathBuf>,
    /// Print the QEMU command instead of running it.
    pub print_command: bool,
    /// Where to write the process ID.
    pub pidfile: Option<PathBuf>,
    /// What to record while the guest runs.
    pub observe: Observe,
}

/// Output files of the observers, each optional.
#[derive(Clone, Debug, Default)]
pub struct Observe {
    /// Counts and times; `-` is stderr.
    pub stats: Option<PathBuf>,
    /// Activity of vCPUs and devices.
    pub trace: Option<PathBuf>,
    /// Content of the queues' rings.
    pub rings: Option<PathBuf>,
}

/// A device to serve on a socket, for front ends such as QEMU.
#[derive(Clone, Debug)]
pub struct VhostUser {
    /// The Unix socket for front ends.
    pub socket: PathBuf,
    /// The device.
    pub device: BackEnd,
    /// Exit when the first front end disconnects.
    pub once: bool,
}

/// A device that can be served to front ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// A disk.
    Block(Disk),
    /// The disk for cloud-init.
    CloudInit(CloudInit),
    /// A network card.
    Net(Net),
    /// A random number generator.
    Rng,
    /// A socket device.
    Vsock(Vsock),
}

impl BackEnd {
    /// Parses `rng`, or `block,`, `cloud-init,`, `net,` or `vsock,` followed by what
    /// [`Disk::parse`], [`CloudInit::parse`], [`Net::parse`] or [`Vsock::parse`] accepts.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let keys = |name: &str| {
            let keys = text.as_bytes().strip_prefix(name.as_bytes())?;
            Some(OsStr::from_bytes(keys))
        };
        if let Some(keys) = keys("vsock,")
            && let Some(vsock) = Vsock::parse(keys)?
        {
            return Ok(BackEnd::Vsock(vsock));
        }
        if let Some(keys) = keys("net,")
            && let Some(net) = Net::parse(keys)?
        {
            return match net.vhost_user {
                true => Err("vhost-user=on: passt serves that card itself".into()),
                false => Ok(BackEnd::Net(net)),
            };
        }
        match (keys("block,"), keys("cloud-init,")) {
            (Some(disk), _) => Disk::parse(disk).map(BackEnd::Block),
            (_, Some(files)) => CloudInit::parse(files).map(BackEnd::CloudInit),
            (None, None) if text == "rng" => Ok(BackEnd::Rng),
            _ => Err(
                "expected block,path=FILE[,readonly][,serial=TEXT], cloud-init,user-data=FILE, net,tap=NAME|passt[,KEY=VALUE], vsock,path=SOCK[,cid=N] or rng"
                    .into(),
            ),
        }
    }
}

/// The accelerator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM if it is usable and runs RISC-V guests, else QEMU.
    #[default]
    Auto,
    /// KVM, or fail.
    Kvm,
    /// QEMU with CPU emulation (TCG).
    Qemu,
}

/// Which program implements the virtio devices of a guest under QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Devices {
    /// Hartvisor, as under KVM, over vhost-user.
    #[default]
    Ours,
    /// QEMU, for comparison.
    Qemu,
}

/// The interrupt controller of the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Irqchip {
    /// The in-kernel AIA if it works, else a PLIC.
    #[default]
    Auto,
    /// The in-kernel AIA (APLIC and IMSIC), or fail.
    Aia,
    /// A PLIC in user space, which works on every host.
    Plic,
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
