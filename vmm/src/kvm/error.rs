//! Why KVM cannot run a guest here.

use std::io;

use crate::error::{Class, Error};

/// Why KVM cannot run a guest here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum KvmError {
    /// This machine is not RISC-V, so KVM cannot run RISC-V guests.
    #[error("KVM here cannot run RISC-V guests: this machine is {arch}")]
    NotRiscv { arch: &'static str },

    /// `/dev/kvm` does not exist.
    #[error(
        "no /dev/kvm on this host: its kernel has no KVM (module kvm), or the CPU no hypervisor extension"
    )]
    Missing,

    /// This user may not open `/dev/kvm`.
    #[error(
        "no permission to open /dev/kvm: it belongs to group {group}, add this user to it (usermod -aG {group} USER) and log in again"
    )]
    Permission { group: String },

    /// `/dev/kvm` is another kind of file.
    #[error("/dev/kvm is not the device of KVM: it does not answer KVM_GET_API_VERSION")]
    NotKvm,

    /// KVM lacks a feature that the guest requires.
    #[error("this host's KVM lacks {what}: {why}")]
    Lacks { what: String, why: &'static str },

    /// An extension was asked for that KVM does not have.
    #[error("{option} {name}=on: this host's KVM does not have {name}, it has {has}")]
    Extension { option: &'static str, name: &'static str, has: String },

    /// A step of the requested AIA's set-up failed.
    #[error("--irqchip aia: this host's KVM cannot {step} (--irqchip auto uses a PLIC then)")]
    Aia { step: String, source: io::Error },

    /// A required call to KVM failed.
    #[error("KVM: {what}")]
    Call { what: String, source: io::Error },
}

impl KvmError {
    /// Converts the error of a call to KVM. `what` is a verb and its object.
    pub(crate) fn call<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::from(KvmError::Call { what: what.into(), source: source.into() })
    }

    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            KvmError::Extension { .. } => Class::Usage,
            KvmError::Call { .. } => Class::Own,
            _ => Class::Host,
        }
    }
}
