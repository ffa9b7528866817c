//! The pvpanic device (QEMU's docs/specs/pvpanic.rst), with which a guest's kernel reports a panic.
//!
//! ```text
//!   0x0   read: the events that are supported   write: the events that happened
//!           bit 0  PANICKED      the kernel panicked and stops
//!           bit 1  CRASH_LOADED  the kernel panicked and starts its crash kernel (kdump)
//! ```
//!
//! Linux's driver is CONFIG_PVPANIC_MMIO (`qemu,pvpanic-mmio` in the device tree).

use super::bus::BusDevice;

/// Bytes of the register area.
pub const SIZE: u64 = 2;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// What the guest's kernel does after its panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// It stops.
    Final,
    /// It starts its crash kernel.
    CrashKernel,
}

/// The device. It calls back in the thread of the vCPU that stores.
pub struct Pvpanic {
    report: Box<dyn Fn(Panic) + Send + Sync>,
}

impl Pvpanic {
    /// A device that calls `report` each time the guest stores an event.
    pub fn new(report: impl Fn(Panic) + Send + Sync + 'static) -> Pvpanic {
        Pvpanic { report: Box::new(report) }
    }
}

/// Accesses of another width than a byte have no effect.
impl BusDevice for Pvpanic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let ([data], 0) = (data, offset) {
            *data = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let ([events], 0) = (data, offset) else {
            return;
        };
        if events & PANICKED != 0 {
            (self.report)(Panic::Final);
        } else if events & CRASH_LOADED != 0 {
            (self.report)(Panic::CrashKernel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_valid_reports_are_passed_on() {
        let (sender, reports) = mpsc::channel();
        let device = Pvpanic::new(move |panic| sender.send(panic).unwrap());
        let mut events = [0];
        device.read(0, &mut events);
        assert_eq!(events, [3]);
        device.write(0, &[2]);
        device.write(0, &[3]);
        device.write(0, &[1]);
        device.write(0, &[0x80]);
        device.write(0, &[1, 0]);
        device.write(1, &[1]);
        let mut wide = [0; 2];
        device.read(0, &mut wide);
        device.read(1, &mut wide[..1]);
        assert_eq!(wide, [0; 2]);
        drop(device);
        let seen: Vec<_> = reports.iter().collect();
        assert_eq!(seen, [Panic::CrashKernel, Panic::Final, Panic::Final]);
    }
}
