//! The descriptor table (§ 2.7.5): walks a chain through it, and through an indirect table.

use crate::memory::{Memory, RingWord, RingWords};
use crate::sync::{AtomicU64, Ordering};
use crate::virtio::chain::{Buffers, Refused};
use crate::virtio::error::QueueError;

/// Bytes of a descriptor.
pub(crate) const SIZE: u32 = 16;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor in memory: the first word is its address; the second its length, flags and next.
pub(crate) type Entry = [AtomicU64; 2];

/// A queue's descriptor table, translated, and its limits.
pub(crate) struct Table {
    pub(crate) entries: RingWords<Entry>,
    /// The number of descriptors.
    pub(crate) size: u16,
    /// The most descriptors that a chain may have in an indirect table: 0 unless INDIRECT_DESC was
    /// negotiated.
    pub(crate) indirect: u32,
    /// The guest's memory, which holds the indirect tables.
    pub(crate) memory: Memory,
}

impl Table {
    /// Collects the buffers of the chain that begins at `head`. Returns how many descriptors it
    /// has. Each is loaded once.
    ///
    /// The loads are relaxed: the acquire load of the available index orders them (§ 2.7.13).
    #[inline(always)]
    pub(crate) fn collect(&self, head: u16, buffers: &mut Buffers) -> Result<u32, QueueError> {
        let mut entries = self.entries.as_slice();
        // The descriptor that refers to the indirect table, once the chain has entered it.
        let mut table = None;
        let mut max = u32::from(self.size);
        let mut left = max;
        let mut index = u32::from(head);
        loop {
            let descriptor = match entries.get(index as usize) {
                Some(entry) => Descriptor::from(entry.get(Ordering::Relaxed)),
                None => self.read_slow(table.as_ref(), index)?,
            };
            if descriptor.flags & INDIRECT != 0 {
                entries = self.enter(&descriptor, table.as_ref())?;
                max = self.indirect.min(descriptor.len / SIZE);
                left = max;
                table = Some(descriptor);
                index = 0;
                continue;
            }
            let &Descriptor { address, len, flags, next } = &descriptor;
            if let Err(refused) = buffers.append(address, len, flags & WRITE != 0) {
                return Err(invalid(&refused, head, &descriptor));
            }
            if flags & NEXT == 0 {
                break;
            }
            // A chain with more descriptors than the table has is a loop.
            left -= 1;
            if left == 0 {
                return Err(QueueError::ChainLength { head, max });
            }
            index = next.into();
        }
        match buffers.is_too_long() {
            false => Ok(max - left + 1),
            true => Err(QueueError::TotalLength { head }),
        }
    }

    /// The indirect table that `descriptor` refers to, which ends the chain (§ 2.7.5.3). `within`
    /// is the descriptor of the table that contains `descriptor`, if that is an indirect one.
    #[inline]
    fn enter(
        &self,
        descriptor: &Descriptor,
        within: Option<&Descriptor>,
    ) -> Result<&[Entry], QueueError> {
        let &Descriptor { address, len, flags, .. } = descriptor;
        if let Some(table) = within {
            return Err(table.refused("an indirect descriptor inside the table"));
        }
        if self.indirect == 0 {
            return Err(descriptor.refused("INDIRECT_DESC was not negotiated"));
        }
        // WRITE on this descriptor is ignored, as § 2.7.5.3.2 requires.
        if flags & NEXT != 0 {
            return Err(descriptor.refused("NEXT together with INDIRECT"));
        }
        if len == 0 || !len.is_multiple_of(SIZE) {
            return Err(descriptor.refused("not a whole number of descriptors"));
        }
        Ok(self.memory.slice(address, len / SIZE))
    }

    /// Descriptor `index` if it is not in the slice. It is in an indirect table that is misaligned
    /// or not all RAM, which is allowed, or it does not exist.
    #[cold]
    #[inline(never)]
    fn read_slow(&self, table: Option<&Descriptor>, index: u32) -> Result<Descriptor, QueueError> {
        let size = table.map_or(self.size.into(), |table| table.len / SIZE);
        match table {
            Some(table) if index < size => table
                .read(&self.memory, index)
                .ok_or_else(|| table.refused("the table is not RAM")),
            _ => Err(QueueError::DescriptorIndex { index, size }),
        }
    }

    /// Calls `see` with the first `max` descriptors, and their indices in their tables, of the
    /// chain that begins at `head`, which [`collect`](Self::collect) found valid.
    pub(crate) fn follow(&self, head: u16, max: usize, mut see: impl FnMut(u16, &Descriptor)) {
        let mut index = head;
        let mut table = None;
        for _ in 0..max {
            let Some(descriptor) = self.read(table.as_ref(), index) else {
                return;
            };
            see(index, &descriptor);
            let flags = descriptor.flags;
            index = match flags {
                _ if flags & INDIRECT != 0 && table.is_none() => 0,
                _ if flags & NEXT != 0 => descriptor.next,
                _ => return,
            };
            if flags & INDIRECT != 0 {
                table = Some(descriptor);
            }
        }
    }

    /// Descriptor `index` of the ring's table, or of the table that `table` refers to.
    fn read(&self, table: Option<&Descriptor>, index: u16) -> Option<Descriptor> {
        if let Some(table) = table {
            return table.read(&self.memory, index.into());
        }
        let entry = self.entries.as_slice().get(usize::from(index))?;
        Some(entry.get(Ordering::Relaxed).into())
    }
}

/// A copy of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of its buffer, or of its indirect table.
    pub address: u64,
    /// Length of the buffer or table in bytes.
    pub len: u32,
    /// NEXT is 1, WRITE is 2, INDIRECT is 4.
    pub flags: u16,
    /// With NEXT, the index of the chain's next descriptor.
    pub next: u16,
}

impl From<[u64; 2]> for Descriptor {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the second word holds three fields"
    )]
    #[inline]
    fn from([address, rest]: [u64; 2]) -> Self {
        Descriptor {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

impl Descriptor {
    /// Descriptor `index` of the table that this one refers to, aligned or not; `None` if it is not
    /// in RAM.
    pub(crate) fn read(&self, memory: &Memory, index: u32) -> Option<Descriptor> {
        let address = self
            .address
            .checked_add(u64::from(index) * u64::from(SIZE))?;
        let mut words = [[0; 8]; 2];
        memory.read(address, words.as_flattened_mut())?;
        Some(Descriptor::from(words.map(u64::from_le_bytes)))
    }

    #[cold]
    #[inline(never)]
    fn refused(&self, why: &'static str) -> QueueError {
        let &Descriptor { flags, len, .. } = self;
        QueueError::Indirect { flags, len, why }
    }
}

/// The error for a buffer that was refused.
#[cold]
#[inline(never)]
fn invalid(refused: &Refused, head: u16, descriptor: &Descriptor) -> QueueError {
    let &Descriptor { address, len, .. } = descriptor;
    match refused {
        Refused::NotRam => QueueError::Buffer { address, len },
        Refused::ReadableAfterWritable => QueueError::Order { head },
    }
}
