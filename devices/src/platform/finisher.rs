//! SiFive's test finisher, as on QEMU's `virt`: one register, with which a guest powers off or
//! restarts its machine.
//!
//! ```text
//!   store of 32 bits at offset 0:   31 ── code ── 16 │ 15 ── what ── 0
//!                                   what: 0x5555 pass, 0x3333 fail, 0x7777 reset
//! ```

use crate::platform::bus::BusDevice;

/// Bytes of the register area.
pub const SIZE: u64 = 0x1000;

/// Power off.
pub const PASS: u16 = 0x5555;
/// Power off after a failure, with an exit code in the upper half.
pub const FAIL: u16 = 0x3333;
/// Restart.
pub const RESET: u16 = 0x7777;

/// What the guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Power off.
    Pass,
    /// Power off after a failure with this code.
    Fail(u16),
    /// Restart.
    Reset,
}

/// The finisher. It calls back in the thread of the vCPU that stores.
pub struct Finisher {
    finish: Box<dyn Fn(Finish) + Send + Sync>,
}

impl Finisher {
    /// A finisher that calls `finish`.
    pub fn new(finish: impl Fn(Finish) + Send + Sync + 'static) -> Finisher {
        Finisher { finish: Box::new(finish) }
    }
}

impl BusDevice for Finisher {
    /// The register reads as zero.
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    /// 16-bit stores work too, with code 0, as on QEMU.
    fn write(&self, offset: u64, data: &[u8]) {
        let (what, code) = match *data {
            [a, b] => (u16::from_le_bytes([a, b]), 0),
            [a, b, c, d] => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            _ => return,
        };
        let finish = match what {
            PASS => Finish::Pass,
            FAIL => Finish::Fail(code),
            RESET => Finish::Reset,
            _ => return,
        };
        if offset == 0 {
            (self.finish)(finish);
        }
    }
}

#[cfg(test)]
#[path = "finisher_test.rs"]
mod tests;
