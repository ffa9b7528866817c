//! The driver side of a split virtqueue (virtio 1.3 § 2.7).
//!
//! ```text
//!   descriptor area   16 bytes × size    address len flags next      driver writes
//!   driver area       flags idx ring[size] used_event                driver writes
//!   device area       flags idx {id len}[size] avail_event           device writes
//! ```
//!
//! [`Queue::add`] writes a chain and its ring entry. [`Queue::publish`] makes all new entries
//! available and returns whether to kick the device. [`Queue::pop`] takes back one used chain. The
//! driver keeps its own state (free list, chain lengths) where the device cannot write it, and
//! checks the device's values against it.

mod segment;

pub use segment::{Layout, Segment};

use core::sync::atomic::{Ordering, fence};

use crate::virtio::feature;
use crate::{Dma, Error, Region};

/// Most entries of a queue that this driver uses; a power of two.
pub const MAX_SIZE: u16 = 256;
/// Descriptors in one indirect table.
pub const INDIRECT_ENTRIES: u16 = 32;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Offset of `idx` in the driver and device areas; `flags` is at 0.
const IDX: usize = 2;
/// Offset of `ring` in the driver and device areas.
const RING: usize = 4;
/// avail.flags: the driver wants no interrupts (§2.7.7).
const NO_INTERRUPT: u16 = 1;
/// used.flags: the device wants no kicks (§2.7.10).
const NO_NOTIFY: u16 = 1;
/// Descriptor flags (§2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A chain in flight, named by its first descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(u16);

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain.
    pub head: Head,
    /// Bytes that the device wrote, at most those of the chain's writable segments. Bytes beyond
    /// are undefined (§2.7.8.2).
    pub written: u32,
}

/// The driver's state of one descriptor.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    /// The next descriptor of the free list or of the chain.
    next: u16,
    /// Descriptors of the chain in flight that begins here; else 0.
    length: u16,
    /// Bytes of its writable segments; 2^32 - 1 also stands for 2^32, since `len` cannot
    /// distinguish them.
    writable: u32,
}

/// One split virtqueue.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    size: u16,
    event_idx: bool,
    /// One table of [`INDIRECT_ENTRIES`] per descriptor, if INDIRECT_DESC was negotiated.
    tables: Option<Region>,
    descriptors: Region,
    driver: Region,
    device: Region,
    shadow: [Shadow; MAX_SIZE as usize],
    free: u16,
    first_free: u16,
    in_flight: u16,
    /// Index of the next chain in the available ring.
    next_avail: u16,
    /// avail.idx as published.
    published: u16,
    /// The next used entry to read.
    next_used: u16,
    interrupts: bool,
    /// The error that broke the queue: after an invalid value of the device it is not used again.
    broken: Option<Error>,
}

impl Queue {
    /// Allocates the three areas in `dma`, for the largest power of two up to `size` and
    /// [`MAX_SIZE`]. `features` are those negotiated.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfDma`]; [`Error::QueueUnavailable`] for a size of 0.
    pub fn new(dma: &mut Dma, index: u16, size: u16, features: u64) -> Result<Self, Error> {
        let size = size
            .min(MAX_SIZE)
            .checked_ilog2()
            .ok_or(Error::QueueUnavailable(index))?;
        let size = 1_u16 << size;
        let entries = usize::from(size);
        let indirect = features & feature::INDIRECT_DESC != 0;
        let table_bytes = usize::from(INDIRECT_ENTRIES) * DESCRIPTOR;
        let mut shadow = [Shadow { next: 0, length: 0, writable: 0 }; MAX_SIZE as usize];
        for (next, entry) in (1..=size).zip(&mut shadow) {
            entry.next = next % size;
        }
        Ok(Self {
            index,
            size,
            event_idx: features & feature::EVENT_IDX != 0,
            tables: indirect
                .then(|| dma.alloc(entries * table_bytes))
                .transpose()?,
            descriptors: dma.alloc(entries * DESCRIPTOR)?,
            driver: dma.alloc(RING + 2 * entries + 2)?,
            device: dma.alloc(RING + 8 * entries + 2)?,
            shadow,
            free: size,
            first_free: 0,
            in_flight: 0,
            next_avail: 0,
            published: 0,
            next_used: 0,
            interrupts: true,
            broken: None,
        })
    }

    /// The queue's index, as in QueueSel and QueueNotify.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries of the rings.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors that no chain uses.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Chains that the device has not used yet.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Bus address of the descriptor area.
    pub fn descriptor_area(&self) -> u64 {
        self.descriptors.bus()
    }

    /// Bus address of the driver area (available ring).
    pub fn driver_area(&self) -> u64 {
        self.driver.bus()
    }

    /// Bus address of the device area (used ring).
    pub fn device_area(&self) -> u64 {
        self.device.bus()
    }

    /// Adds a chain, in an indirect table if negotiated and useful. The device sees it after the
    /// next [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// As [`add_as`](Self::add_as).
    pub fn add(&mut self, segments: &[Segment]) -> Result<Head, Error> {
        let fits = (2..=usize::from(INDIRECT_ENTRIES)).contains(&segments.len());
        let indirect = self.tables.is_some() && fits;
        let layout = if indirect {
            Layout::Indirect { direct: 0 }
        } else {
            Layout::Direct
        };
        self.add_as(segments, layout)
    }

    /// Adds a chain in a given layout.
    ///
    /// # Errors
    ///
    /// [`Error::Chain`] if it would violate §2.7.4 or the layout is not possible;
    /// [`Error::QueueFull`] without enough free descriptors; the error that broke the queue.
    pub fn add_as(&mut self, segments: &[Segment], layout: Layout) -> Result<Head, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let writable = segment::check(segments, self.size)?;
        let (direct, table) = match layout {
            Layout::Direct => (segments, [].as_slice()),
            Layout::Indirect { direct } => segments
                .split_at_checked(direct.into())
                .filter(|(_, table)| self.tables.is_some() && !table.is_empty())
                .filter(|(_, table)| table.len() <= INDIRECT_ENTRIES.into())
                .ok_or_else(|| segment::refused(segments))?,
        };
        // Both at most `size`, as `check` verified.
        let length = u16::try_from(direct.len()).unwrap_or(u16::MAX) + u16::from(!table.is_empty());
        if length > self.free {
            return Err(Error::QueueFull);
        }

        let head = self.first_free;
        let table = self.write_table(head, table);
        let mut at = head;
        for (descriptor, left) in direct
            .iter()
            .copied()
            .map(|segment| (segment, 0))
            .chain(table)
            .zip((0..length).rev())
        {
            let next = self.shadow(at).next;
            let (segment, flags) = descriptor;
            let link = if left > 0 { NEXT } else { 0 };
            write_descriptor(&self.descriptors, at, segment, flags | link, next);
            at = next;
        }
        self.first_free = at;
        self.free -= length;
        self.in_flight += 1;
        let shadow = self.shadow(head);
        shadow.length = length;
        shadow.writable = u32::try_from(writable).unwrap_or(u32::MAX);

        let entry = RING + 2 * usize::from(self.next_avail % self.size);
        self.driver.store_u16(entry, head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Head(head))
    }

    /// Publishes the chains added since the last call. Returns `true` if the caller must kick the
    /// device.
    #[must_use = "the device must be kicked when this is true"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return false;
        }
        // Release: descriptors and ring entries are visible before idx (§2.7.13.3.1).
        self.driver.store_u16(IDX, new, Ordering::Release);
        self.published = new;
        // idx is visible before flags or avail_event are read (§2.7.13.4.1). Without the fence both
        // sides may read old values, and the device sleeps for ever.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.device.load_u16(self.avail_event(), Ordering::Relaxed);
            needs_event(event, new, old)
        } else {
            self.device.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    /// Takes back the next chain that the device has used.
    ///
    /// # Errors
    ///
    /// [`Error::UsedIndex`], [`Error::UsedId`] or [`Error::UsedLength`] if the device wrote an
    /// invalid value. The queue stays broken until the device is reset.
    pub fn pop(&mut self) -> Result<Option<Used>, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let used = self.take();
        self.broken = used.as_ref().err().cloned();
        used
    }

    fn take(&mut self) -> Result<Option<Used>, Error> {
        // Acquire: the entry, and its data, were written before idx (§2.7.14).
        let index = self.device.load_u16(IDX, Ordering::Acquire);
        let new = index.wrapping_sub(self.next_used);
        if new == 0 {
            return Ok(None);
        }
        if new > self.in_flight {
            let (next, in_flight) = (self.next_used, self.in_flight);
            return Err(Error::UsedIndex { index, next, in_flight });
        }
        let entry = RING + 8 * usize::from(self.next_used % self.size);
        let id = self.device.load_u32(entry, Ordering::Relaxed);
        let written = self.device.load_u32(entry + 4, Ordering::Relaxed);
        let head = u16::try_from(id).ok().filter(|head| *head < self.size);
        let head = head
            .filter(|head| self.shadow(*head).length > 0)
            .ok_or(Error::UsedId(id))?;
        let Shadow { length, writable, .. } = *self.shadow(head);
        if written > writable {
            return Err(Error::UsedLength { written, writable });
        }

        self.release(head, length);
        self.next_used = self.next_used.wrapping_add(1);
        self.ask_for_interrupt();
        Ok(Some(Used { head: Head(head), written }))
    }

    /// Asks for interrupts or for none; the device may ignore that. Returns `true` if a chain was
    /// used before the device could see the request: poll once more before sleeping.
    pub fn set_interrupts(&mut self, enabled: bool) -> bool {
        self.interrupts = enabled;
        if self.event_idx {
            self.ask_for_interrupt();
        } else {
            let flags = if enabled { 0 } else { NO_INTERRUPT };
            self.driver.store_u16(0, flags, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        self.device.load_u16(IDX, Ordering::Acquire) != self.next_used
    }

    /// Writes used_event: the next entry, or for "none" one far from all chains in flight. The last
    /// entry would not work: the device may read used_event after we have taken the chain that it
    /// has just published, and treat it as reached.
    fn ask_for_interrupt(&self) {
        if self.event_idx {
            let far = if self.interrupts { 0 } else { 1 << 15 };
            let event = self.next_used.wrapping_add(far);
            self.driver
                .store_u16(self.used_event(), event, Ordering::Relaxed);
            // used_event is visible before used.idx is read again. Otherwise the device may miss
            // the request while the driver misses the entry.
            fence(Ordering::SeqCst);
        }
    }

    /// Puts a chain of `length` descriptors back on the free list.
    fn release(&mut self, head: u16, length: u16) {
        let mut tail = head;
        for _ in 1..length {
            tail = self.shadow(tail).next;
        }
        self.shadow(tail).next = self.first_free;
        self.shadow(head).length = 0;
        self.first_free = head;
        self.free += length;
        self.in_flight -= 1;
    }

    /// Fills the indirect table of `head`, and returns the descriptor that refers to it.
    fn write_table(&self, head: u16, segments: &[Segment]) -> Option<(Segment, u16)> {
        let table_bytes = usize::from(INDIRECT_ENTRIES) * DESCRIPTOR;
        let start = usize::from(head) * table_bytes;
        let tables = self.tables.as_ref().filter(|_| !segments.is_empty())?;
        let table = tables.slice(start..start + table_bytes);
        for (segment, at) in segments.iter().zip(0..INDIRECT_ENTRIES) {
            let last = usize::from(at) + 1 == segments.len();
            let link = if last { 0 } else { NEXT };
            write_descriptor(&table, at, *segment, link, at + 1);
        }
        let used = table.slice(0..segments.len() * DESCRIPTOR);
        Some((Segment::readable(&used), INDIRECT))
    }

    /// Offset of used_event in the driver area.
    fn used_event(&self) -> usize {
        RING + 2 * usize::from(self.size)
    }

    /// Offset of avail_event in the device area.
    fn avail_event(&self) -> usize {
        RING + 8 * usize::from(self.size)
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "reduced to the length of the array"
    )]
    fn shadow(&mut self, descriptor: u16) -> &mut Shadow {
        &mut self.shadow[usize::from(descriptor % MAX_SIZE)]
    }
}

/// Whether moving an index from `old` to `new` passes `event` (§2.7.7.2 and §2.7.10.2).
fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Writes entry `at` of a descriptor table (§2.7.5).
fn write_descriptor(table: &Region, at: u16, segment: Segment, flags: u16, next: u16) {
    let start = usize::from(at) * DESCRIPTOR;
    let flags = flags | if segment.writable { WRITE } else { 0 };
    table.store_u64(start, segment.address, Ordering::Relaxed);
    table.store_u32(start + 8, segment.len, Ordering::Relaxed);
    table.store_u16(start + 12, flags, Ordering::Relaxed);
    table.store_u16(start + 14, next, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
