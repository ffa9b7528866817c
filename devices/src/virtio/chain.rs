//! A descriptor chain: the buffers of one request, readable ones first, then writable ones
//! (§ 2.7.4).
//!
//! The division of a request into descriptors has no meaning (§ 2.7.4.3): a device consumes bytes
//! from the front of each direction, and may reserve the last writable byte for its status.

use crate::memory::Memory;
pub use crate::memory::{Readable, Writable};

/// The longest chain, in bytes of both directions (§ 2.7.5.3).
const TOTAL_MAX: u64 = 1 << 32;

/// A chain that a device took from a queue. Return it with
/// [`Queue::push`](crate::virtio::queue::Queue::push).
#[must_use = "a chain that is not pushed back never returns to the driver"]
pub struct Chain {
    pub(crate) head: u16,
    pub(crate) buffers: Box<Buffers>,
}

impl Chain {
    /// The device-readable bytes.
    pub fn readable(&mut self) -> &mut Readable {
        &mut self.buffers.readable
    }

    /// The device-writable bytes.
    pub fn writable(&mut self) -> &mut Writable {
        &mut self.buffers.writable
    }
}

/// Why a descriptor cannot be part of a chain.
pub(crate) enum Refused {
    NotRam,
    ReadableAfterWritable,
}

/// Both directions. A queue reuses them for the next chain, so that a request allocates nothing.
pub(crate) struct Buffers {
    readable: Readable,
    writable: Writable,
}

impl Buffers {
    pub(crate) fn new(memory: &Memory) -> Self {
        Buffers { readable: Readable::new(memory.clone()), writable: Writable::new(memory.clone()) }
    }

    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Appends the buffer of the chain's next descriptor. This and its callees are always inlined:
    /// the call would cost as much as the work.
    #[inline(always)]
    pub(crate) fn append(&mut self, address: u64, len: u32, writable: bool) -> Result<(), Refused> {
        let appended = if writable {
            self.writable.append(address, len)
        } else if self.writable.is_empty() {
            self.readable.append(address, len)
        } else {
            return Err(Refused::ReadableAfterWritable);
        };
        appended.ok_or(Refused::NotRam)
    }

    /// Whether the chain has too many bytes. The sum does not overflow: there are at most 65536
    /// buffers, each shorter than 2^32.
    #[inline]
    pub(crate) fn is_too_long(&self) -> bool {
        self.readable.len() + self.writable.len() > TOTAL_MAX
    }
}
