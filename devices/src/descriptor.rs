//! The descriptor table (§ 2.7.5): following a chain through it, and through an indirect table.

use crate::broken::Broken;
use crate::chain::{Buffers, Refused};
use crate::memory::{Memory, Words};
use crate::sync::{AtomicU64, Ordering};
use crate::watch::{DESCRIPTORS_TOLD, Event, Watch};

/// Bytes of a descriptor.
pub(crate) const SIZE: u64 = 16;

/// How many descriptors a chain may have where the ring itself is smaller: an indirect table may be longer than the
/// ring (drivers do that), but not without bound.
const CHAIN_MAX: u32 = 1024;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A queue's descriptors, translated, and what is allowed in them.
pub(crate) struct Table {
    /// Two words a descriptor: address; length, flags and next.
    pub(crate) words: Words<AtomicU64>,
    /// How many descriptors there are.
    pub(crate) size: u16,
    /// Whether INDIRECT_DESC was negotiated.
    pub(crate) indirect: bool,
    /// Where indirect tables are.
    pub(crate) memory: Memory,
}

impl Table {
    /// Collects the buffers of the chain that begins at `head`, and says how many descriptors it has. Each is loaded once.
    ///
    /// The loads are relaxed: the acquire of the available index, before them, orders them (§ 2.7.13).
    pub(crate) fn collect(&self, head: u16, buffers: &mut Buffers) -> Result<u32, Broken> {
        let size = u32::from(self.size);
        let mut index = head;
        // A chain that visits more descriptors than there are loops.
        for count in 1..=size {
            if u32::from(index) >= size {
                return Err(Broken::DescriptorIndex { index, size });
            }
            let entry = 2 * usize::from(index);
            let descriptor = Descriptor::new(
                self.words.load(entry, Ordering::Relaxed),
                self.words.load(entry + 1, Ordering::Relaxed),
            );
            if descriptor.flags & INDIRECT != 0 {
                return self.collect_indirect(head, &descriptor, buffers);
            }
            append(buffers, head, &descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(count);
            }
            index = descriptor.next;
        }
        Err(Broken::ChainLength { head, max: size })
    }

    /// Collects the buffers of an indirect table, which ends the chain (§ 2.7.5.3).
    fn collect_indirect(
        &self,
        head: u16,
        table: &Descriptor,
        buffers: &mut Buffers,
    ) -> Result<u32, Broken> {
        let refuse = |why| {
            let &Descriptor { flags, len, .. } = table;
            Err(Broken::Indirect { flags, len, why })
        };
        if !self.indirect {
            return refuse("INDIRECT_DESC was not negotiated");
        }
        // WRITE on this descriptor is ignored, as § 2.7.5.3.2 asks.
        if table.flags & NEXT != 0 {
            return refuse("NEXT together with INDIRECT");
        }
        if table.len == 0 || !u64::from(table.len).is_multiple_of(SIZE) {
            return refuse("not a whole number of descriptors");
        }
        let size = table.len / 16;
        let max = CHAIN_MAX.max(self.size.into()).min(size);
        let mut index = 0_u16;
        for count in 1..=max {
            if u32::from(index) >= size {
                return Err(Broken::DescriptorIndex { index, size });
            }
            let mut words = [0; 16];
            let entry = table.address.checked_add(u64::from(index) * SIZE);
            if entry
                .and_then(|entry| self.memory.read(entry, &mut words))
                .is_none()
            {
                return refuse("the table is not RAM");
            }
            let words = u128::from_le_bytes(words);
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of it")]
            let descriptor = Descriptor::new(words as u64, (words >> 64) as u64);
            if descriptor.flags & INDIRECT != 0 {
                return refuse("an indirect descriptor inside the table");
            }
            append(buffers, head, &descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(count);
            }
            index = descriptor.next;
        }
        Err(Broken::ChainLength { head, max })
    }
}

impl Table {
    /// Tells `watch` of the descriptors of the chain that begins at `head`, which [`collect`](Self::collect) found in order.
    pub(crate) fn tell(&self, head: u16, watch: &dyn Watch) {
        let mut index = head;
        let mut table = None;
        for _ in 0..DESCRIPTORS_TOLD {
            let Some(descriptor) = self.look(table.as_ref(), index) else {
                return;
            };
            let Descriptor {
                address,
                len,
                flags,
                next,
            } = descriptor;
            watch.see(Event::Descriptor {
                index,
                address,
                len,
                flags,
            });
            index = match flags {
                _ if flags & INDIRECT != 0 && table.is_none() => 0,
                _ if flags & NEXT != 0 => next,
                _ => return,
            };
            if flags & INDIRECT != 0 {
                table = Some(descriptor);
            }
        }
    }

    /// Descriptor `index` of the ring's table, or of the one that `table` refers to.
    fn look(&self, table: Option<&Descriptor>, index: u16) -> Option<Descriptor> {
        let Some(table) = table else {
            let entry = 2 * usize::from(Some(index).filter(|&index| index < self.size)?);
            let word = |at| self.words.load(at, Ordering::Relaxed);
            return Some(Descriptor::new(word(entry), word(entry + 1)));
        };
        let mut words = [[0; 8]; 2];
        let address = table.address.checked_add(u64::from(index) * SIZE)?;
        self.memory.read(address, words.as_flattened_mut())?;
        let [address, rest] = words.map(u64::from_le_bytes);
        Some(Descriptor::new(address, rest))
    }
}

/// One entry, as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of its buffer, or of a table.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// NEXT is 1, WRITE is 2, INDIRECT is 4.
    pub flags: u16,
    /// The next one of its chain, with NEXT.
    pub next: u16,
}

impl Descriptor {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the second word holds three fields"
    )]
    pub(crate) fn new(address: u64, rest: u64) -> Self {
        Descriptor {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// Adds a descriptor's buffer to the chain that began at `head`.
#[inline]
fn append(buffers: &mut Buffers, head: u16, descriptor: &Descriptor) -> Result<(), Broken> {
    let &Descriptor {
        address,
        len,
        flags,
        ..
    } = descriptor;
    match buffers.append(address, len, flags & WRITE != 0) {
        Ok(()) => Ok(()),
        Err(refused) => Err(broken(&refused, head, descriptor)),
    }
}

/// Out of the way of those that are as they should be.
#[cold]
fn broken(refused: &Refused, head: u16, descriptor: &Descriptor) -> Broken {
    let &Descriptor { address, len, .. } = descriptor;
    match refused {
        Refused::NotRam => Broken::Buffer { address, len },
        Refused::ReadableAfterWritable => Broken::Order { head },
        Refused::TooLong => Broken::TotalLength { head },
    }
}
