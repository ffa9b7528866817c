//! Linux KVM for RISC-V. [`crate::vm`] puts these parts together.

mod aia;
pub(crate) mod cpu;
mod error;
mod ext;
mod group;
pub(crate) mod hardware;
pub(crate) mod irq;
pub(crate) mod ram;
mod registers;
mod report;
pub(crate) mod stats;
pub(crate) mod threads;
pub(crate) mod vcpu;

pub use error::KvmError;

use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use crate::board::Devices;
use crate::error::Error;

/// Checks that KVM can be used on this host.
///
/// # Errors
/// Why it cannot be used.
pub fn usable() -> Result<(), Error> {
    open().map(drop)
}

/// What this host's KVM offers, one line per fact.
pub fn report() -> Vec<(&'static str, String)> {
    let report = open().and_then(|kvm| report::report(&kvm));
    report.unwrap_or_else(|error| vec![("kvm", error.chain())])
}

/// Registers the guest's memory, and the device registers that need no exit.
///
/// This is done late, and memory comes first. From Linux 6.18 on, a change of the memory slots
/// waits up to two ticks for what KVM frees after a change of its I/O bus (kvm_io_bus_register_dev,
/// call_srcu). The AIA and each ioeventfd cause such a change. What the AIA leaves behind is freed
/// while the kernel is loaded.
pub(crate) fn show_memory(
    vm: &VmFd,
    ram: &GuestMemoryMmap,
    devices: &Devices,
) -> Result<(), Error> {
    ram::show(vm, ram)?;
    registers::show(vm, ram.num_regions(), devices);
    registers::attach_kicks(vm, devices);
    Ok(())
}

/// Opens `/dev/kvm` and checks the version of its API.
pub(crate) fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::from(KvmError::Missing),
        libc::EACCES | libc::EPERM => {
            Error::from(KvmError::Permission { group: group::kvm_group() })
        }
        _ => KvmError::call("open /dev/kvm")(error),
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        ..0 => Err(Error::from(KvmError::NotKvm)),
        other => Err(Error::from(KvmError::Lacks {
            what: format!("API version 12 (it has {other})"),
            why: "no other is stable",
        })),
    }
}
