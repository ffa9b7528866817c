//! The VM, its vCPUs and its interrupt controller, as far as KVM makes them.

use std::sync::Arc;

use kvm_ioctls::{Kvm, VmFd};
use log::warn;

use super::aia::{Aia, Failed};
use super::failed;
use super::vcpu::KvmVcpu;
use crate::cli::Irqchip;
use crate::error::Error;
use crate::machine::Machine;

/// What KVM made.
pub(super) struct Hardware {
    pub(super) vm: Arc<VmFd>,
    pub(super) vcpus: Vec<KvmVcpu>,
    /// `None`: the interrupt controller is ours to give.
    pub(super) aia: Option<Aia>,
}

/// Makes them, with an AIA if the machine wants one, or if it may have one and this host's KVM can.
pub(super) fn create(kvm: &Kvm, machine: &Machine) -> Result<Hardware, Error> {
    let limit = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
    if machine.cpus > limit {
        return Err(Error::Cpus {
            given: machine.cpus,
            limit,
            why: "the limit of this host's KVM",
        });
    }
    let mut hardware = without_aia(kvm, machine)?;
    if machine.irqchip == Irqchip::Plic {
        return Ok(hardware);
    }
    match Aia::new(&hardware.vm, machine.cpus) {
        Ok(aia) => {
            hardware.aia = Some(aia);
            Ok(hardware)
        }
        Err(Failed { step, source }) if machine.irqchip == Irqchip::Aia => {
            Err(Error::KvmAia { step, source })
        }
        // A host without one is no news, one whose AIA is broken is.
        Err(Failed { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(hardware),
        Err(Failed { step, source }) => {
            warn!("in-kernel AIA: cannot {step}: {source}; the guest gets a PLIC");
            // KVM takes the first VM for one that has an AIA.
            without_aia(kvm, machine)
        }
    }
}

fn without_aia(kvm: &Kvm, machine: &Machine) -> Result<Hardware, Error> {
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    let vcpus = (0..machine.cpus)
        .map(|id| KvmVcpu::new(&vm, id))
        .collect::<Result<_, _>>()?;
    Ok(Hardware {
        vm: Arc::new(vm),
        vcpus,
        aia: None,
    })
}
