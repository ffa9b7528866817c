//! A descriptor chain: the buffers of one request, readable ones first, then writable ones (§ 2.7.4).
//!
//! How the driver cut a request into descriptors means nothing (§ 2.7.4.3): a device consumes bytes from the front of
//! each direction, and may set the last writable byte aside for its status.

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::{IoVecs, Memory, NotRam};

/// The longest chain, in bytes, over both directions (§ 2.7.5.3).
const TOTAL_MAX: u64 = 1 << 32;

/// A chain that a device took from a queue. Give it back with [`Queue::push`](crate::virtio::queue::Queue::push).
#[must_use = "a chain that is not pushed back is lost to the driver"]
pub struct Chain {
    pub(crate) head: u16,
    pub(crate) buffers: Box<Buffers>,
}

impl Chain {
    /// What the driver wrote for the device.
    pub fn readable(&mut self) -> &mut Readable {
        &mut self.buffers.readable
    }

    /// Where the device may write.
    pub fn writable(&mut self) -> &mut Writable {
        &mut self.buffers.writable
    }
}

/// Why a descriptor cannot be part of a chain.
pub(crate) enum Refused {
    NotRam,
    ReadableAfterWritable,
}

impl From<NotRam> for Refused {
    fn from(_: NotRam) -> Self {
        Refused::NotRam
    }
}

/// Both directions; a queue reuses them from chain to chain, so that a request allocates nothing.
pub(crate) struct Buffers {
    readable: Readable,
    writable: Writable,
}

impl Buffers {
    pub(crate) fn new(memory: &Memory) -> Self {
        Buffers {
            readable: Readable(IoVecs::new(memory.clone())),
            writable: Writable(IoVecs::new(memory.clone())),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.readable.0.clear();
        self.writable.0.clear();
    }

    /// Adds the next descriptor of the chain. Always inlined, as is what it calls: the call costs as much as the rest.
    #[inline(always)]
    pub(crate) fn append(&mut self, address: u64, len: u32, writable: bool) -> Result<(), Refused> {
        if writable {
            self.writable.0.append(address, len)?;
        } else if self.writable.is_empty() {
            self.readable.0.append(address, len)?;
        } else {
            return Err(Refused::ReadableAfterWritable);
        }
        Ok(())
    }

    /// Whether the chain has more bytes than any may have. No sum overflows: there are at most 65536 buffers of 32 bits.
    #[inline]
    pub(crate) fn is_too_long(&self) -> bool {
        self.readable.len() + self.writable.len() > TOTAL_MAX
    }
}

/// Bytes that the device may read and must not write.
pub struct Readable(IoVecs);

impl Readable {
    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every piece begins at a multiple of the first number and is a multiple of the second long (host bytes).
    pub fn is_aligned(&self, to: (u32, u32)) -> bool {
        self.0.is_aligned(to)
    }

    /// Consumes the first `N` bytes; `None`, and nothing consumed, if there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len() < N as u64 {
            return None;
        }
        let mut bytes = [0; N];
        self.0.copy_out(&mut bytes);
        Some(bytes)
    }

    /// Consumes bytes into `out`; returns how many there were.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.0.copy_out(out)
    }

    /// Consumes everything into `file` at byte `offset`, if wanted by calls of at most `inline` bytes.
    ///
    /// # Errors
    /// The file's; part of the data may have been written.
    pub fn write_all_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        inline: Option<usize>,
    ) -> io::Result<()> {
        self.0.write_all_at(file, offset, inline)
    }

    /// Consumes what one write to `stream` takes; returns how much that was.
    ///
    /// # Errors
    /// The stream's, `WouldBlock` included.
    pub fn write_to(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        self.0.write_stream(stream)
    }
}

/// Bytes that the device may write.
pub struct Writable(IoVecs);

impl Writable {
    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every piece begins at a multiple of the first number and is a multiple of the second long (host bytes).
    pub fn is_aligned(&self, to: (u32, u32)) -> bool {
        self.0.is_aligned(to)
    }

    /// Writes bytes to the front; returns how many found room.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.copy_in(bytes)
    }

    /// Fills everything from `file` at byte `offset`.
    ///
    /// # Errors
    /// The file's; `UnexpectedEof` if it ends too early. Part may have been filled.
    pub fn read_exact_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.0.read_exact_at(file, offset)
    }

    /// Fills with what one read from `stream` gives; returns how much that was, 0 at the stream's end.
    ///
    /// # Errors
    /// The stream's, `WouldBlock` included.
    pub fn read_from(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        self.0.read_stream(stream)
    }

    /// Sets the last byte aside, for [`put_last`](Self::put_last); false if there is none.
    pub fn split_last(&mut self) -> bool {
        self.0.split_last()
    }

    /// Writes the byte that was set aside, once.
    pub fn put_last(&mut self, value: u8) {
        self.0.write_last(value);
    }
}
