//! Why QEMU cannot run a guest here.

use std::io;
use std::path::PathBuf;

use crate::error::Class;

/// Why QEMU cannot run a guest here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum QemuError {
    /// The kernel's place is taken by the firmware that QEMU puts into the guest.
    #[error(
        "kernel {path:?} begins at {start:#x}: under QEMU the firmware (OpenSBI) owns RAM below {firmware_end:#x}; link it there or above, or use --accel kvm"
    )]
    InFirmware { path: PathBuf, start: u64, firmware_end: u64 },

    /// QEMU is not installed.
    #[error(
        "no {program} to be found: install it (Debian: apt-get install qemu-system-riscv, on others perhaps qemu-system-misc), or name one in HARTVISOR_QEMU"
    )]
    Missing { program: String },

    /// QEMU is there, and older than what its exit reasons need.
    #[error(
        "{program} is version {found}, at least {needed} is needed: older ones do not say how the guest ended"
    )]
    Old { program: String, found: String, needed: &'static str },

    /// QEMU is there, and cannot be started.
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },

    /// QEMU ended by itself, not because the guest did.
    #[error("{program} failed with {status} (its own message, if any, is above)")]
    Failed { program: String, status: String },

    /// QEMU said something over QMP that cannot be understood.
    #[error("{program} sent an unexpected QMP message: {message}")]
    Qmp { program: String, message: String },
}

impl QemuError {
    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        match self {
            QemuError::InFirmware { .. } => Class::Usage,
            QemuError::Missing { .. } | QemuError::Old { .. } => Class::Host,
            _ => Class::Own,
        }
    }
}
