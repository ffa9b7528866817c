//! The in-kernel AIA: an APLIC, which turns wired interrupts into MSIs, and an IMSIC per hart
//! (KVM_DEV_TYPE_RISCV_AIA).
//!
//! Hosts differ in how much of it works. So every step of the set-up has a name, and the caller
//! decides what a failure means.

use std::io;
use std::sync::Arc;

use devices::irq::IrqLine;
use kvm_bindings::{
    KVM_DEV_RISCV_AIA_ADDR_APLIC, KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS,
    KVM_DEV_RISCV_AIA_CONFIG_HART_BITS, KVM_DEV_RISCV_AIA_CONFIG_IDS,
    KVM_DEV_RISCV_AIA_CONFIG_MODE, KVM_DEV_RISCV_AIA_CONFIG_SRCS, KVM_DEV_RISCV_AIA_CTRL_INIT,
    KVM_DEV_RISCV_AIA_GRP_ADDR, KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_GRP_CTRL,
    KVM_DEV_RISCV_AIA_MODE_AUTO, KVM_DEV_RISCV_AIA_MODE_EMUL, KVM_DEV_RISCV_AIA_MODE_HWACCEL,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
};
use kvm_ioctls::{DeviceFd, VmFd};
use log::error;

use super::ext;
use crate::layout::{APLIC_BASE, APLIC_SOURCES, IMSIC_BASE, IMSIC_IDS, IMSIC_SIZE};

/// The AIA of a VM. It lives as long as the VM; this value shows that it exists.
pub(crate) struct Aia {
    device: DeviceFd,
}

/// A step of the set-up that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub(crate) struct Failed {
    /// The step, as an infinitive: "place the APLIC".
    pub(crate) step: String,
    #[source]
    pub(crate) source: io::Error,
}

fn failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { step: step.into(), source }
}

impl Aia {
    /// Creates the AIA of `vm`. Its `harts` vCPUs exist and have not run yet.
    ///
    /// # Errors
    /// The step that KVM refused. The VM is then useless: KVM treats it as one with an AIA.
    pub(crate) fn new(vm: &VmFd, harts: u32) -> Result<Aia, Failed> {
        let aia = Aia::create(vm)?;
        // The mode stays as KVM chose it: AUTO if the CPU has guest interrupt files, else EMUL.
        aia.configure(
            "number of identities",
            KVM_DEV_RISCV_AIA_CONFIG_IDS,
            IMSIC_IDS,
        )?;
        aia.configure(
            "number of sources",
            KVM_DEV_RISCV_AIA_CONFIG_SRCS,
            APLIC_SOURCES,
        )?;
        // The bits of an IMSIC's address that tell one hart from another.
        let hart_bits = harts.next_power_of_two().trailing_zeros();
        aia.configure(
            "hart index bits",
            KVM_DEV_RISCV_AIA_CONFIG_HART_BITS,
            hart_bits,
        )?;
        aia.configure("guest index bits", KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS, 0)?;
        aia.place("the APLIC", KVM_DEV_RISCV_AIA_ADDR_APLIC, APLIC_BASE)?;
        for hart in 0..harts {
            let address = IMSIC_BASE + u64::from(hart) * IMSIC_SIZE;
            // Attribute 1 + h is the address of hart h's file.
            aia.place(&format!("the IMSIC of hart {hart}"), 1 + hart, address)?;
        }
        let group = KVM_DEV_RISCV_AIA_GRP_CTRL;
        ext::set_device(&aia.device, group, KVM_DEV_RISCV_AIA_CTRL_INIT, &0_u64)
            .map_err(failed("initialise it"))?;
        Ok(aia)
    }

    /// The first step: whether there is an AIA at all.
    pub(crate) fn create(vm: &VmFd) -> Result<Aia, Failed> {
        let mut device =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA, fd: 0, flags: 0 };
        let device = vm.create_device(&mut device).map_err(io::Error::from);
        let device = device.map_err(failed(
            "create it (it takes Linux 6.5 and a CPU with Ssaia)",
        ))?;
        Ok(Aia { device })
    }

    /// KVM's mode: emulation in software, or the CPU's guest interrupt files where there are any.
    pub(crate) fn mode(&self) -> &'static str {
        match self.mode_number() {
            Ok(KVM_DEV_RISCV_AIA_MODE_EMUL) => "emulated (no guest interrupt files)",
            Ok(KVM_DEV_RISCV_AIA_MODE_HWACCEL) => "guest interrupt files",
            Ok(KVM_DEV_RISCV_AIA_MODE_AUTO) => "guest interrupt files while they last",
            _ => "unknown mode",
        }
    }

    /// Whether KVM uses guest interrupt files.
    pub(crate) fn has_files(&self) -> bool {
        matches!(
            self.mode_number(),
            Ok(KVM_DEV_RISCV_AIA_MODE_HWACCEL | KVM_DEV_RISCV_AIA_MODE_AUTO)
        )
    }

    fn mode_number(&self) -> io::Result<u32> {
        let (group, attribute) = (KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_CONFIG_MODE);
        ext::get_device(&self.device, group, attribute)
    }

    /// The line of APLIC source `source`.
    pub(crate) fn source(&self, vm: &Arc<VmFd>, source: u32) -> Box<dyn IrqLine> {
        Box::new(Wire { vm: Arc::clone(vm), source })
    }

    fn configure(&self, what: &str, attribute: u32, value: u32) -> Result<(), Failed> {
        ext::set_device(
            &self.device,
            KVM_DEV_RISCV_AIA_GRP_CONFIG,
            attribute,
            &value,
        )
        .map_err(failed(format!("set its {what} to {value}")))
    }

    fn place(&self, what: &str, attribute: u32, address: u64) -> Result<(), Failed> {
        ext::set_device(
            &self.device,
            KVM_DEV_RISCV_AIA_GRP_ADDR,
            attribute,
            &address,
        )
        .map_err(failed(format!("place {what} at {address:#x}")))
    }
}

/// An input of the APLIC. The guest sets its source mode: rising edges or level.
///
/// This is not an irqfd. An irqfd can raise the input but never lower it, and an input that stays
/// high has no second edge: Debian's disk stalled with one (KVM of Linux 6.12).
struct Wire {
    vm: Arc<VmFd>,
    source: u32,
}

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        if let Err(error) = self.vm.set_irq_line(self.source, high) {
            error!("KVM_IRQ_LINE {}: {error}", self.source);
        }
    }
}
