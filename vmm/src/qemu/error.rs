//! Why QEMU cannot run a guest here.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::error::Class;

/// Why QEMU cannot run a guest here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum QemuError {
    /// QEMU's firmware occupies the kernel's address.
    #[error(
        "kernel {path:?} begins at {start:#x}: under QEMU the firmware (OpenSBI) owns RAM below {firmware_end:#x}; link it there or above, or use --accel kvm"
    )]
    InFirmware { path: PathBuf, start: u64, firmware_end: u64 },

    /// QEMU is not installed.
    #[error(
        "no {program} found: install it (Debian: apt-get install qemu-system-riscv; elsewhere possibly qemu-system-misc), or set HARTVISOR_QEMU"
    )]
    Missing { program: String },

    /// The program exits like QEMU, but does not answer like it.
    #[error(
        "{program} is not QEMU: it ended with {status} and did not give a version (HARTVISOR_QEMU names another program)"
    )]
    NotQemu { program: String, status: ExitStatus },

    /// The machine has options that only KVM supports.
    #[error("{option} is not possible under QEMU: {why}; remove it, or use --accel kvm")]
    KvmOnly { option: &'static str, why: &'static str },

    /// QEMU is too old to report how the guest ended.
    #[error(
        "{program} is version {found}, at least {needed} is needed: older ones do not say how the guest ended"
    )]
    Old { program: String, found: String, needed: &'static str },

    /// QEMU is installed, but cannot be started.
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },

    /// QEMU exited for a reason other than the guest.
    #[error("{program} failed with {status} (its own message, if any, is above)")]
    Failed { program: String, status: String },

    /// QEMU sent an invalid QMP message.
    #[error("{program} sent an unexpected QMP message: {message}")]
    Qmp { program: String, message: String },
}

impl QemuError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            QemuError::InFirmware { .. } | QemuError::KvmOnly { .. } => Class::Usage,
            QemuError::Missing { .. } | QemuError::NotQemu { .. } | QemuError::Old { .. } => {
                Class::Host
            }
            _ => Class::Own,
        }
    }
}
