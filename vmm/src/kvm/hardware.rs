//! Creates the VM, its vCPUs and, where KVM has one, its in-kernel interrupt controller.

use std::sync::Arc;

use kvm_ioctls::{Kvm, VmFd};
use log::warn;

use super::aia::{Aia, Failed};
use super::error::KvmError;
use super::report::{LOST_WAKEUPS, may_lose_wakeups};
use super::vcpu::KvmVcpu;
use crate::config::ConfigError;
use crate::config::Irqchip;
use crate::error::Error;

/// The VM, its vCPUs and its AIA.
pub(crate) struct Hardware {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) vcpus: Vec<KvmVcpu>,
    /// `None` if the interrupt controller is our PLIC.
    pub(crate) aia: Option<Aia>,
}

/// Creates a VM of `cpus` harts. `irqchip` says whether an AIA is required, used if possible, or
/// never used.
pub(crate) fn create(kvm: &Kvm, cpus: u32, irqchip: Irqchip) -> Result<Hardware, Error> {
    let limit = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
    if cpus > limit {
        return Err(Error::from(ConfigError::Cpus {
            given: cpus,
            limit,
            why: "the limit of this host's KVM",
        }));
    }
    with(kvm, cpus, irqchip, Aia::new)
}

/// As [`create`]; `make` creates the AIA.
fn with(
    kvm: &Kvm,
    cpus: u32,
    irqchip: Irqchip,
    make: impl FnOnce(&VmFd, u32) -> Result<Aia, Failed>,
) -> Result<Hardware, Error> {
    let mut hardware = without_aia(kvm, cpus)?;
    if irqchip == Irqchip::Plic {
        return Ok(hardware);
    }
    match make(&hardware.vm, cpus) {
        Ok(aia) => {
            if irqchip == Irqchip::Auto && may_lose_wakeups(&aia) {
                warn!(
                    "in-kernel AIA: {LOST_WAKEUPS} (--irqchip plic avoids that, --irqchip aia accepts it)"
                );
            }
            hardware.aia = Some(aia);
            Ok(hardware)
        }
        Err(Failed { step, source }) if irqchip == Irqchip::Aia => {
            Err(Error::from(KvmError::Aia { step, source }))
        }
        // The host has no AIA. One whose AIA is broken is worth a warning.
        Err(Failed { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(hardware),
        Err(Failed { step, source }) => {
            warn!("in-kernel AIA: cannot {step}: {source}; the guest gets a PLIC");
            // KVM treats the first VM as one with an AIA.
            without_aia(kvm, cpus)
        }
    }
}

fn without_aia(kvm: &Kvm, cpus: u32) -> Result<Hardware, Error> {
    let vm = kvm.create_vm().map_err(KvmError::call("create a VM"))?;
    let vcpus = (0..cpus)
        .map(|id| KvmVcpu::new(&vm, id))
        .collect::<Result<_, _>>()?;
    Ok(Hardware { vm: Arc::new(vm), vcpus, aia: None })
}

#[cfg(all(test, feature = "e2e"))]
mod tests {
    use super::*;

    /// Fails: KVM has no vCPU for the last IMSIC, so it refuses to place that one.
    fn one_hart_too_many(vm: &VmFd, cpus: u32) -> Result<Aia, Failed> {
        Aia::new(vm, cpus + 1)
    }

    #[test]
    fn an_aia_that_fails_half_way_makes_room_for_a_plic() {
        let kvm = Kvm::new().unwrap();
        let hardware = with(&kvm, 2, Irqchip::Auto, one_hart_too_many).unwrap();
        assert!(hardware.aia.is_none());
        // Nothing is left of the VM with the incomplete AIA: this one takes interrupts from user
        // space, and an AIA can still be created.
        for vcpu in &hardware.vcpus {
            use std::os::fd::AsFd;
            crate::kvm::ext::interrupt(vcpu.interrupt_fd().unwrap().as_fd(), true).unwrap();
        }
        assert!(Aia::new(&hardware.vm, 2).is_ok());
    }

    #[test]
    fn an_aia_that_was_asked_for_and_fails_is_an_error_that_names_the_step() {
        let kvm = Kvm::new().unwrap();
        let error = with(&kvm, 2, Irqchip::Aia, one_hart_too_many)
            .err()
            .unwrap();
        assert!(
            error
                .chain()
                .contains("place the IMSIC of hart 2 at 0x28002000"),
            "{}",
            error.chain()
        );
    }

    #[test]
    fn an_aia_is_taken_where_there_is_one_unless_a_plic_is_wanted() {
        let kvm = Kvm::new().unwrap();
        assert!(create(&kvm, 2, Irqchip::Auto).unwrap().aia.is_some());
        assert!(create(&kvm, 2, Irqchip::Plic).unwrap().aia.is_none());
    }
}
