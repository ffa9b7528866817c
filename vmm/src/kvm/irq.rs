//! The interrupt controller: the in-kernel AIA, or else our PLIC.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::platform::bus::Bus;
use devices::platform::plic::Plic;
use kvm_ioctls::VmFd;
use log::error;

use super::aia::Aia;
use super::ext;
use super::vcpu::KvmVcpu;
use crate::error::Error;
use crate::{fdt, layout};

/// The interrupt controller of a VM.
pub(crate) enum Irqchip {
    /// In user space. It works on every RISC-V KVM host.
    Plic(Arc<Plic>),
    /// In the kernel. The guest's accesses to it need no exit to user space.
    Aia(Aia),
}

impl Irqchip {
    /// Creates a PLIC on `bus`. Its outputs are the vCPUs' supervisor external interrupts.
    pub(crate) fn plic(bus: &mut Bus, vcpus: &[KvmVcpu]) -> Result<Irqchip, Error> {
        let harts = vcpus.iter().map(|vcpu| {
            let vcpu = vcpu.interrupt_fd()?;
            Ok(Box::new(HartLine { vcpu }) as Box<dyn IrqLine>)
        });
        let harts = harts
            .collect::<io::Result<_>>()
            .map_err(Error::host("duplicate a vCPU's descriptor"))?;
        let plic = Arc::new(Plic::new(harts));
        bus.insert(layout::PLIC_BASE, layout::PLIC_SIZE, plic.clone())
            .map_err(|overlap| Error::Internal(overlap.to_string()))?;
        Ok(Irqchip::Plic(plic))
    }

    /// The line of an interrupt source.
    pub(crate) fn source(&self, vm: &Arc<VmFd>, source: u32) -> Box<dyn IrqLine> {
        match self {
            Irqchip::Plic(plic) => plic.source(source),
            Irqchip::Aia(aia) => aia.source(vm, source),
        }
    }

    /// Its description for the device tree.
    pub(crate) fn describe(&self) -> fdt::Irqchip {
        match self {
            Irqchip::Plic(_) => fdt::Irqchip::Plic,
            Irqchip::Aia(_) => fdt::Irqchip::Aia,
        }
    }
}

/// A hart's supervisor external interrupt. Setting it wakes the hart from WFI.
struct HartLine {
    vcpu: OwnedFd,
}

impl IrqLine for HartLine {
    fn set(&self, high: bool) {
        if let Err(error) = ext::interrupt(self.vcpu.as_fd(), high) {
            error!("KVM_INTERRUPT: {error}");
        }
    }
}
