//! Interrupts without an in-kernel controller: our PLIC's outputs, one a hart.

use std::os::fd::{AsFd, OwnedFd};

use devices::irq::IrqLine;
use log::error;

use super::ext;

/// A hart's supervisor external interrupt. Setting it wakes the hart from WFI.
pub(super) struct HartLine {
    vcpu: OwnedFd,
}

impl HartLine {
    pub(super) fn new(vcpu: OwnedFd) -> HartLine {
        HartLine { vcpu }
    }
}

impl IrqLine for HartLine {
    fn set(&self, high: bool) {
        if let Err(error) = ext::interrupt(self.vcpu.as_fd(), high) {
            error!("KVM_INTERRUPT: {error}");
        }
    }
}
