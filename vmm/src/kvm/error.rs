//! Why KVM cannot run a guest here.

use std::io;

use crate::error::{Class, Error};

/// Why KVM cannot run a guest here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum KvmError {
    /// This machine is no RISC-V machine, so its KVM, if any, runs other guests.
    #[error("KVM here cannot run RISC-V guests: this machine is {arch}")]
    NotRiscv { arch: &'static str },

    /// `/dev/kvm` is absent.
    #[error(
        "no /dev/kvm on this host: its kernel has no KVM (module kvm), or the CPU no hypervisor extension"
    )]
    Missing,

    /// `/dev/kvm` is there, and not for this user.
    #[error(
        "no permission to open /dev/kvm: it belongs to group {group}, add this user to it (usermod -aG {group} USER) and log in anew"
    )]
    Permission { group: String },

    /// KVM lacks something that the guest cannot do without.
    #[error("this host's KVM lacks {what}: {why}")]
    Lacks { what: String, why: &'static str },

    /// An AIA was asked for, and a step of its set-up failed.
    #[error("--irqchip aia: this host's KVM cannot {step} (--irqchip auto takes a PLIC then)")]
    Aia { step: String, source: io::Error },

    /// The host has not the huge pages that were asked for.
    #[error(
        "--memory hugepages=on: {needed} huge pages of 2M are needed, {free} are free (as root: echo {needed} > /proc/sys/vm/nr_hugepages)"
    )]
    HugePages { needed: u64, free: u64 },

    /// KVM refused something that the guest cannot do without.
    #[error("KVM: {what}")]
    Call { what: String, source: io::Error },
}

impl KvmError {
    /// The error of a call to KVM; `what` is a verb with its object.
    pub(crate) fn call<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| {
            Error::from(KvmError::Call {
                what: what.into(),
                source: source.into(),
            })
        }
    }

    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        match self {
            KvmError::Call { .. } => Class::Own,
            _ => Class::Host,
        }
    }
}
