//! A split virtqueue without a driver: every word is written by hand, valid or not.
//!
//! The drivers follow the rules; a test of a device must be able to break each of them. So nothing
//! here is checked, and there is no state except the ring's memory.
//!
//! ```text
//!   Region   descriptor area │ driver area │ device area │
//!            16 × size       │ 6 + 2 × size│ 6 + 8 × size│   each from a page boundary on
//! ```

use core::sync::atomic::{Ordering, fence};

use crate::dma::PAGE;
use crate::mmio::{high, low, offset};
use crate::{Region, Registers};

/// Descriptor flag: the chain continues at `next` (§2.7.5).
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes the buffer.
pub const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors (§2.7.5.3).
pub const INDIRECT: u16 = 4;
/// `flags` of either ring: no notifications (§2.7.7, §2.7.10).
pub const NO_NOTIFICATION: u16 = 1;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Offsets in the driver and device areas.
const FLAGS: usize = 0;
const IDX: usize = 2;
const RING: usize = 4;

/// A descriptor, as in a table (§2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Bus address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`], or any other bits.
    pub flags: u16,
    /// The next descriptor, if `flags` say so.
    pub next: u16,
}

impl Descriptor {
    /// A buffer for the device to read.
    pub fn readable(address: u64, len: u32) -> Self {
        Self { address, len, ..Self::default() }
    }

    /// A buffer for the device to write.
    pub fn writable(address: u64, len: u32) -> Self {
        Self::readable(address, len).with(WRITE)
    }

    /// The same with more flags.
    #[must_use]
    pub fn with(self, flags: u16) -> Self {
        let flags = self.flags | flags;
        Self { flags, ..self }
    }

    /// The same, followed by another.
    #[must_use]
    pub fn then(self, next: u16) -> Self {
        Self { next, ..self.with(NEXT) }
    }
}

/// Writes entry `index` of the table at the start of `table`.
pub fn describe(table: &Region, index: u16, descriptor: Descriptor) {
    let at = DESCRIPTOR * usize::from(index);
    table.store_u64(at, descriptor.address, Ordering::Relaxed);
    table.store_u32(at + 8, descriptor.len, Ordering::Relaxed);
    table.store_u16(at + 12, descriptor.flags, Ordering::Relaxed);
    table.store_u16(at + 14, descriptor.next, Ordering::Relaxed);
}

/// Writes `chain` to the entries from `first` on, each linked to the next.
pub fn link(table: &Region, first: u16, chain: &[Descriptor]) {
    for (index, (descriptor, left)) in (first..).zip(chain.iter().zip((0..chain.len()).rev())) {
        let descriptor = match left {
            0 => *descriptor,
            _ => descriptor.then(index.wrapping_add(1)),
        };
        describe(table, index, descriptor);
    }
}

/// The three areas of a virtqueue.
#[derive(Clone, Debug)]
pub struct Ring {
    size: u16,
    descriptors: Region,
    driver: Region,
    device: Region,
}

impl Ring {
    /// Bytes of memory that a ring of this size takes.
    pub fn bytes(size: u16) -> usize {
        let size = usize::from(size);
        let areas = [DESCRIPTOR * size, RING + 2 * size + 2, RING + 8 * size + 2];
        areas.map(|area| area.next_multiple_of(PAGE)).iter().sum()
    }

    /// An empty ring of `size` entries at the front of `memory`.
    ///
    /// # Panics
    ///
    /// If `memory` has less than [`bytes`](Self::bytes).
    pub fn new(memory: &Region, size: u16) -> Self {
        let entries = usize::from(size);
        let driver = (DESCRIPTOR * entries).next_multiple_of(PAGE);
        let device = driver + (RING + 2 * entries + 2).next_multiple_of(PAGE);
        Self::at(memory, size, [0, driver, device])
    }

    /// An empty ring whose descriptor, driver and device areas begin at these offsets of `memory`.
    ///
    /// # Panics
    ///
    /// If an area is not inside `memory`.
    pub fn at(memory: &Region, size: u16, [descriptors, driver, device]: [usize; 3]) -> Self {
        let entries = usize::from(size);
        let ring = Self {
            size,
            descriptors: memory.slice(descriptors..descriptors + DESCRIPTOR * entries),
            driver: memory.slice(driver..driver + RING + 2 * entries + 2),
            device: memory.slice(device..device + RING + 8 * entries + 2),
        };
        ring.clear();
        ring
    }

    /// Resets it to its initial state.
    pub fn clear(&self) {
        for area in [&self.descriptors, &self.driver, &self.device] {
            area.fill(0);
        }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor area.
    pub fn descriptors(&self) -> &Region {
        &self.descriptors
    }

    /// The driver area (available ring).
    pub fn driver(&self) -> &Region {
        &self.driver
    }

    /// The device area (used ring).
    pub fn device(&self) -> &Region {
        &self.device
    }

    /// `avail.idx`.
    pub fn available(&self) -> u16 {
        self.driver.load_u16(IDX, Ordering::Relaxed)
    }

    /// Sets `avail.idx`.
    pub fn set_available(&self, idx: u16) {
        // Release: descriptors and heads are visible before it (§2.7.13.3.1).
        self.driver.store_u16(IDX, idx, Ordering::Release);
        // And idx is visible before avail_event or used.flags is read (§2.7.13.4.1).
        fence(Ordering::SeqCst);
    }

    /// Writes `head` into the next slot; the device does not see it yet.
    pub fn place(&self, slot: u16, head: u16) {
        let at = RING + 2 * usize::from(slot % self.size);
        self.driver.store_u16(at, head, Ordering::Relaxed);
    }

    /// Makes `heads` available.
    pub fn offer(&self, heads: &[u16]) {
        let mut idx = self.available();
        for head in heads {
            self.place(idx, *head);
            idx = idx.wrapping_add(1);
        }
        self.set_available(idx);
    }

    /// `used.idx`.
    pub fn used(&self) -> u16 {
        self.device.load_u16(IDX, Ordering::Acquire)
    }

    /// The used element in slot `slot`, modulo the size: `id` and `len`.
    pub fn element(&self, slot: u16) -> (u32, u32) {
        let at = RING + 8 * usize::from(slot % self.size);
        let word = |at| self.device.load_u32(at, Ordering::Relaxed);
        (word(at), word(at + 4))
    }

    /// Sets `avail.flags`.
    pub fn set_flags(&self, flags: u16) {
        self.driver.store_u16(FLAGS, flags, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// `used.flags`.
    pub fn used_flags(&self) -> u16 {
        self.device.load_u16(FLAGS, Ordering::SeqCst)
    }

    /// Sets `used_event` (§2.7.7).
    pub fn set_used_event(&self, idx: u16) {
        let at = RING + 2 * usize::from(self.size);
        self.driver.store_u16(at, idx, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// `avail_event` (§2.7.10).
    pub fn avail_event(&self) -> u16 {
        let at = RING + 8 * usize::from(self.size);
        self.device.load_u16(at, Ordering::SeqCst)
    }

    /// Sets up queue `index` without enabling it: QueueSel, QueueSize and the addresses (§4.2.3.2).
    pub fn announce(&self, registers: &impl Registers, index: u16) {
        registers.write(offset::QUEUE_SEL, index.into());
        registers.write(offset::QUEUE_SIZE, self.size.into());
        for (area, region) in [
            (offset::QUEUE_DESC, &self.descriptors),
            (offset::QUEUE_DRIVER, &self.driver),
            (offset::QUEUE_DEVICE, &self.device),
        ] {
            registers.write(area, low(region.bus()));
            registers.write(area + 4, high(region.bus()));
        }
    }

    /// The same, and enables it.
    pub fn attach(&self, registers: &impl Registers, index: u16) {
        self.announce(registers, index);
        registers.write(offset::QUEUE_READY, 1);
    }
}

#[cfg(test)]
#[path = "bare_test.rs"]
mod tests;
