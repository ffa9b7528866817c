//! The bus: dispatches the guest's loads and stores outside RAM.

use std::sync::Arc;

use thiserror::Error;

/// Registers in guest physical memory. An access may have any width and alignment. An invalid store
/// has no effect, and an invalid load reads as zero. Any number of vCPUs may call this at once.
pub trait BusDevice: Send + Sync {
    /// A load of `data.len()` bytes at `offset` from the device's base. `data` is zero on entry.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// A store of `data` at `offset` from the device's base.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The range is already in use.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{len:#x} bytes at {base:#x} overlap another device")]
pub struct Overlap {
    /// Guest address of the range.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

struct Range {
    base: u64,
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// All devices by address. It does not change once vCPUs run, so a lookup takes no lock.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

impl Bus {
    /// Adds `device` at guest addresses `base` to `base + len`.
    ///
    /// # Errors
    /// The range overlaps that of another device.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), Overlap> {
        let overlaps = |range: &Range| base < range.base + range.len && range.base < base + len;
        if self.ranges.iter().any(overlaps) {
            return Err(Overlap { base, len });
        }
        self.ranges.push(Range { base, len, device });
        Ok(())
    }

    /// A load. If there is no device, `data` is zeroed, and this returns false.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0);
        let found = self.find(address, data.len());
        if let Some((device, offset)) = found {
            device.read(offset, data);
        }
        found.is_some()
    }

    /// A store. If there is no device, nothing happens, and this returns false.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let found = self.find(address, data.len());
        if let Some((device, offset)) = found {
            device.write(offset, data);
        }
        found.is_some()
    }

    fn find(&self, address: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let end = address.checked_add(len as u64)?;
        let range = self
            .ranges
            .iter()
            .find(|range| range.base <= address && end <= range.base + range.len)?;
        Some((&*range.device, address - range.base))
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
