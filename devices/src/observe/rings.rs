//! Snapshots of a queue's three areas, for learning virtio and for debugging a driver that hangs.
//!
//! The guest runs meanwhile, and each word is loaded by itself. So a snapshot of a queue in use may
//! be torn: an index may be newer than the entries beside it.

use crate::memory::{Memory, RingWords};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};
pub use crate::virtio::descriptor::Descriptor;
use crate::virtio::descriptor::{INDIRECT, NEXT};

/// Both the driver and the device area begin with `flags` and `idx`, 16 bits each, and the ring
/// follows (§ 2.7.6, § 2.7.8).
pub(crate) const FLAGS: usize = 0;
pub(crate) const IDX: usize = 1;
pub(crate) const RING: usize = 2;

/// The most descriptors of an indirect table in a snapshot.
const TABLE_MAX: u16 = 32;

/// The areas of an activated queue. It outlives the queue, and keeps the guest's memory mapped.
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

/// The contents of a queue's areas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The descriptor table.
    pub descriptors: Vec<Descriptor>,
    /// Indirect tables of chains in flight: the index of the descriptor that refers to the table,
    /// and the first 32 entries.
    pub tables: Vec<(u16, Vec<Descriptor>)>,
    /// `avail.flags`.
    pub available_flags: u16,
    /// `avail.idx`: the number of chains made available so far, modulo 2^16.
    pub available_idx: u16,
    /// The available ring's heads.
    pub available: Vec<u16>,
    /// With EVENT_IDX, the used index at which the driver wants an interrupt.
    pub used_event: Option<u16>,
    /// `used.flags`.
    pub used_flags: u16,
    /// `used.idx`: the number of chains used so far, modulo 2^16.
    pub used_idx: u16,
    /// The used ring: head and bytes written.
    pub used: Vec<(u32, u32)>,
    /// With EVENT_IDX, the available index at which the device wants a notification.
    pub avail_event: Option<u16>,
}

impl Snapshot {
    /// The number of chains that are available and not yet used, at most the ring's size.
    pub fn in_flight(&self) -> u16 {
        let size = u16::try_from(self.available.len()).unwrap_or(u16::MAX);
        self.available_idx.wrapping_sub(self.used_idx).min(size)
    }

    /// The heads of the chains in flight. Our devices use chains in the order in which they were
    /// made available.
    pub fn heads_in_flight(&self) -> impl Iterator<Item = u16> {
        let size = self.available.len().max(1);
        (0..self.in_flight()).filter_map(move |n| {
            let slot = usize::from(self.used_idx.wrapping_add(n)) % size;
            self.available.get(slot).copied()
        })
    }
}

impl View {
    /// Loads the areas.
    pub fn snapshot(&self) -> Snapshot {
        let n = usize::from(self.size);
        let (driver, device) = (
            |at| self.driver.load(at, Ordering::Relaxed),
            |at| self.device.load(at, Ordering::Relaxed),
        );
        let table = |at| self.table.load(at, Ordering::Relaxed);
        let used = |at| self.used.load(at, Ordering::Relaxed);
        // The used index first: a chain that is used between the two loads then still counts as in
        // flight, and the difference is never negative.
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

    /// The chain in an indirect table, up to the first descriptor that cannot be read.
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
