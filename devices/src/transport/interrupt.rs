//! The interrupt side of virtio-mmio: InterruptStatus, DEVICE_NEEDS_RESET, and the line (§ 4.2.2).

use std::sync::Arc;

use super::registers::{INTERRUPT_STATUS, Registers, STATUS};
use crate::irq::IrqLine;
use crate::spec::{INTERRUPT_CONFIG, INTERRUPT_USED, status};
use crate::virtio::Notify;

/// DEVICE_NEEDS_RESET as a bit of a register.
const NEEDS_RESET: u32 = status::DEVICE_NEEDS_RESET as u32;

/// The interrupt side of one virtio device.
///
/// The device's thread raises, and vCPUs read and acknowledge. So everything is atomic, and there
/// is no lock. A register has its new value before the line rises.
pub struct Interrupt {
    registers: Arc<Registers>,
    line: Box<dyn IrqLine>,
}

impl Interrupt {
    /// An interrupt that drives `line`, which must be low.
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Interrupt::with_registers(Arc::default(), line)
    }

    /// Like [`new`](Self::new), with its registers in `registers`.
    pub(crate) fn with_registers(registers: Arc<Registers>, line: Box<dyn IrqLine>) -> Self {
        Interrupt { registers, line }
    }

    /// Whether [`needs_reset`](Notify::needs_reset) was called since the last reset.
    pub fn is_reset_needed(&self) -> bool {
        self.registers.get(STATUS) & NEEDS_RESET != 0
    }

    /// The InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.registers.get(INTERRUPT_STATUS)
    }

    /// A write to InterruptACK: clears `bits`.
    ///
    /// The line falls even if bits are left, and then rises again. An edge-triggered interrupt
    /// controller would otherwise lose a bit that was set while the driver handled another.
    pub fn acknowledge(&self, bits: u32) {
        self.registers.remove(INTERRUPT_STATUS, bits);
        self.drive(false);
    }

    /// Clears all state for a device reset. The caller has stopped the device, so nothing raises.
    pub fn reset(&self) {
        self.registers.remove(STATUS, NEEDS_RESET);
        self.acknowledge(u32::MAX);
    }

    fn raise(&self, bit: u32) {
        // If the bit is still set, the line is high already, and the driver has not acknowledged
        // it. After it does, it sees everything that we did before this line.
        if self.registers.add(INTERRUPT_STATUS, bit) & bit == 0 {
            self.drive(true);
        }
    }

    /// Drives the line, then compares it with the status: another thread may have changed the
    /// status in between and driven the line before us. The last thread to drive it finds the two
    /// equal.
    fn drive(&self, mut high: bool) {
        loop {
            self.line.set(high);
            if (self.status() != 0) == high {
                return;
            }
            high = !high;
        }
    }
}

impl Notify for Interrupt {
    fn used(&self, _index: u16) {
        self.raise(INTERRUPT_USED);
    }

    fn config_changed(&self) {
        self.raise(INTERRUPT_CONFIG);
    }

    fn needs_reset(&self) {
        self.registers.add(STATUS, NEEDS_RESET);
        self.config_changed();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "interrupt_test.rs"]
mod tests;

#[cfg(test)]
#[cfg(loom)]
#[path = "interrupt_loom.rs"]
mod interleavings;
