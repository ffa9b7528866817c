//! How a device gets its driver's attention.

use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::virtio::{INTERRUPT_CONFIG, INTERRUPT_USED};

/// An interrupt wire: a PLIC input, an irqfd, a hart's external interrupt, or a flag in a test.
///
/// `set` may be called from any thread, often, and with the value that the wire already has. An edge-triggered
/// implementation acts on `true` alone.
pub trait IrqLine: Send + Sync {
    /// Drives the wire high or low.
    fn set(&self, high: bool);
}

/// The interrupt side of one virtio device: the InterruptStatus register (§ 4.2.2) and its wire.
///
/// The device's worker raises and the vCPUs read and acknowledge, so everything here is atomic and nothing locks.
pub struct Interrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    line: Box<dyn IrqLine>,
    /// Whether a raised bit stays until it is acknowledged.
    latched: bool,
}

impl Interrupt {
    /// An interrupt that drives `line`, which is low.
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Interrupt {
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
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
        self.needs_reset.store(true, Ordering::SeqCst);
        self.config_changed();
    }

    /// Whether [`needs_reset`](Self::needs_reset) was called since the last reset.
    pub fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// The InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// A write to InterruptACK: clears `bits`.
    ///
    /// The wire falls even if bits are left, and rises again: a driver that learns of edges alone would otherwise never
    /// learn of a bit that was set while it looked at another.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
        self.drive(false);
    }

    /// Forgets everything, as a device reset does. The caller has stopped whoever raises.
    pub fn reset(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.acknowledge(u32::MAX);
    }

    fn raise(&self, bit: u32) {
        if !self.latched {
            return self.line.set(true);
        }
        // A bit that is still set was raised and is unacknowledged: the wire is high already, and the driver has yet to
        // acknowledge, after which it looks at what we did before this line.
        if self.status.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
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
