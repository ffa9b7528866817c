//! How a device gets its driver's attention.

use std::sync::Arc;

use crate::spec::{INTERRUPT_CONFIG, INTERRUPT_USED, status};
use crate::transport::registers::{INTERRUPT_STATUS, Registers, STATUS};

/// An interrupt wire: a PLIC input, an irqfd, a hart's external interrupt, or a flag in a test.
///
/// `set` may be called from any thread, often, and with the value that the wire already has. An edge-triggered
/// implementation acts on `true` alone.
pub trait IrqLine: Send + Sync {
    /// Drives the wire high or low.
    fn set(&self, high: bool);
}

/// DEVICE_NEEDS_RESET as a bit of a register.
const NEEDS_RESET: u32 = status::DEVICE_NEEDS_RESET as u32;

/// The interrupt side of one virtio device: the InterruptStatus register (§ 4.2.2), DEVICE_NEEDS_RESET, and the wire.
///
/// The device's worker raises and the vCPUs read and acknowledge, so everything here is atomic and nothing locks. A register
/// says its new value before the wire rises.
pub struct Interrupt {
    registers: Arc<Registers>,
    line: Box<dyn IrqLine>,
    /// Whether a raised bit stays until it is acknowledged.
    latched: bool,
}

impl Interrupt {
    /// An interrupt that drives `line`, which is low.
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Interrupt::shown_in(Arc::default(), line)
    }

    /// The same, whose registers are among `registers`.
    pub(crate) fn shown_in(registers: Arc<Registers>, line: Box<dyn IrqLine>) -> Self {
        Interrupt {
            registers,
            line,
            latched: true,
        }
    }

    /// An interrupt without InterruptStatus: nobody acknowledges it, so `line` is driven high by each of its causes anew.
    pub fn unlatched(line: Box<dyn IrqLine>) -> Self {
        Interrupt {
            latched: false,
            ..Interrupt::new(line)
        }
    }

    /// Tells the driver that the device has used a buffer.
    pub fn used_buffer(&self) {
        self.raise(INTERRUPT_USED);
    }

    /// Tells the driver that the configuration or the status has changed.
    pub fn config_changed(&self) {
        self.raise(INTERRUPT_CONFIG);
    }

    /// The device cannot go on: DEVICE_NEEDS_RESET, and the configuration change notification that goes with it
    /// (§ 2.1.2).
    pub fn needs_reset(&self) {
        self.registers.add(STATUS, NEEDS_RESET);
        self.config_changed();
    }

    /// Whether [`needs_reset`](Self::needs_reset) was called since the last reset.
    pub fn is_reset_needed(&self) -> bool {
        self.registers.get(STATUS) & NEEDS_RESET != 0
    }

    /// The InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.registers.get(INTERRUPT_STATUS)
    }

    /// A write to InterruptACK: clears `bits`.
    ///
    /// The wire falls even if bits are left, and rises again: a driver that learns of edges alone would otherwise never
    /// learn of a bit that was set while it looked at another.
    pub fn acknowledge(&self, bits: u32) {
        self.registers.remove(INTERRUPT_STATUS, bits);
        self.drive(false);
    }

    /// Forgets everything, as a device reset does. The caller has stopped whoever raises.
    pub fn reset(&self) {
        self.registers.remove(STATUS, NEEDS_RESET);
        self.acknowledge(u32::MAX);
    }

    fn raise(&self, bit: u32) {
        if !self.latched {
            return self.line.set(true);
        }
        // A bit that is still set was raised and is unacknowledged: the wire is high already, and the driver has yet to
        // acknowledge, after which it looks at what we did before this line.
        if self.registers.add(INTERRUPT_STATUS, bit) & bit == 0 {
            self.drive(true);
        }
    }

    /// Drives the wire, and looks whether the status agrees: another thread may have changed the status in between and
    /// driven the wire before us. Whoever drives it last finds the two equal.
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

#[cfg(test)]
#[cfg(not(loom))]
#[path = "irq_test.rs"]
mod tests;

#[cfg(test)]
#[cfg(loom)]
#[path = "irq_loom.rs"]
mod interleavings;
