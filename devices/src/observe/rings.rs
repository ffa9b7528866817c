//! What the three areas of a queue hold at a moment, for whoever wants to look at them: who learns virtio, or searches a
//! driver that hangs.
//!
//! The guest goes on meanwhile. Each word is loaded by itself, so a snapshot of a queue in use may be torn: an index of
//! now beside an entry of a moment ago.

use crate::memory::{Memory, RingWords};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};
pub use crate::virtio::descriptor::Descriptor;
use crate::virtio::descriptor::{INDIRECT, NEXT};

/// Both areas begin with `flags` and `idx`, 16 bits each, and the ring follows (§ 2.7.6, § 2.7.8).
pub(crate) const FLAGS: usize = 0;
pub(crate) const IDX: usize = 1;
pub(crate) const RING: usize = 2;

/// Descriptors of an indirect table that are looked at.
const TABLE_MAX: u16 = 32;

/// The areas of a queue that was set up, wherever the queue itself is by now. It keeps the guest's memory mapped.
#[derive(Clone)]
pub struct View {
    pub(crate) table: RingWords<[AtomicU64; 2]>,
    pub(crate) driver: RingWords<AtomicU16>,
    pub(crate) device: RingWords<AtomicU16>,
    pub(crate) used: RingWords<[AtomicU32; 2]>,
    pub(crate) memory: Memory,
    pub(crate) size: u16,
    pub(crate) event_idx: bool,
}

/// What they held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The descriptor table.
    pub descriptors: Vec<Descriptor>,
    /// Tables that descriptors of chains in flight refer to: the descriptor's index, and their first 32 entries.
    pub tables: Vec<(u16, Vec<Descriptor>)>,
    /// `avail.flags`.
    pub available_flags: u16,
    /// `avail.idx`: how many chains the driver has made available, ever.
    pub available_idx: u16,
    /// The available ring's heads.
    pub available: Vec<u16>,
    /// Where the driver wants to be interrupted, with EVENT_IDX.
    pub used_event: Option<u16>,
    /// `used.flags`.
    pub used_flags: u16,
    /// `used.idx`: how many chains the device has used, ever.
    pub used_idx: u16,
    /// The used ring: head, bytes written.
    pub used: Vec<(u32, u32)>,
    /// Where the device wants to be notified, with EVENT_IDX.
    pub avail_event: Option<u16>,
}

impl Snapshot {
    /// How many chains the device has and has not used: no more than the ring has room for.
    pub fn in_flight(&self) -> u16 {
        let size = u16::try_from(self.available.len()).unwrap_or(u16::MAX);
        self.available_idx.wrapping_sub(self.used_idx).min(size)
    }

    /// The heads of those. Devices of ours use chains in the order in which they were made available.
    pub fn heads_in_flight(&self) -> impl Iterator<Item = u16> {
        let size = self.available.len().max(1);
        (0..self.in_flight()).filter_map(move |n| {
            let slot = usize::from(self.used_idx.wrapping_add(n)) % size;
            self.available.get(slot).copied()
        })
    }
}

impl View {
    /// What the areas hold now.
    pub fn snapshot(&self) -> Snapshot {
        let n = usize::from(self.size);
        let (driver, device) = (
            |at| self.driver.load(at, Ordering::Relaxed),
            |at| self.device.load(at, Ordering::Relaxed),
        );
        let table = |at| self.table.load(at, Ordering::Relaxed);
        let used = |at| self.used.load(at, Ordering::Relaxed);
        // The used index first: chains that are used in between then still count as in flight, and not as too many.
        let used_idx = self.device.load(IDX, Ordering::Acquire);
        let available_idx = self.driver.load(IDX, Ordering::Acquire);
        let mut snapshot = Snapshot {
            descriptors: (0..n).map(|index| Descriptor::from(table(index))).collect(),
            tables: Vec::new(),
            available_flags: driver(FLAGS),
            available_idx,
            available: (0..n).map(|slot| driver(RING + slot)).collect(),
            used_event: self.event_idx.then(|| driver(RING + n)),
            used_flags: device(FLAGS),
            used_idx,
            used: (0..n).map(|slot| used(slot).into()).collect(),
            avail_event: self.event_idx.then(|| device(RING + 4 * n)),
        };
        let tables = snapshot.heads_in_flight().filter_map(|head| {
            let descriptor = snapshot.descriptors.get(usize::from(head))?;
            let indirect = descriptor.flags & INDIRECT != 0;
            indirect.then(|| (head, self.table(descriptor)))
        });
        snapshot.tables = tables.collect();
        snapshot
    }

    /// The chain in an indirect table, as far as it can be read.
    fn table(&self, table: &Descriptor) -> Vec<Descriptor> {
        let mut found = Vec::new();
        let mut index = 0;
        for _ in 0..TABLE_MAX {
            let Some(descriptor) = table.read(&self.memory, index.into()) else {
                break;
            };
            found.push(descriptor);
            if descriptor.flags & NEXT == 0 {
                break;
            }
            index = descriptor.next;
        }
        found
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "rings_test.rs"]
mod tests;
