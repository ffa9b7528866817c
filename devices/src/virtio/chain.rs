//! A descriptor chain: the buffers of one request, readable ones first, then writable ones (§
//! 2.7.4).
//!
//! The division of a request into descriptors has no meaning (§ 2.7.4.3): a device consumes bytes
//! from the front of each direction, and may reserve the last writable byte for its status.

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::{IoVecs, Memory, NotRam};

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

impl From<NotRam> for Refused {
    fn from(_: NotRam) -> Self {
        Refused::NotRam
    }
}

/// Both directions. A queue reuses them for the next chain, so that a request allocates nothing.
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

    /// Appends the buffer of the chain's next descriptor. This and its callees are always inlined:
    /// the call would cost as much as the work.
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

    /// Whether the chain has too many bytes. The sum does not overflow: there are at most 65536
    /// buffers, each shorter than 2^32.
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

    /// Whether every piece begins at a multiple of the first number and is a multiple of the second
    /// long (host bytes).
    pub fn is_aligned(&self, to: (u32, u32)) -> bool {
        self.0.is_aligned(to)
    }

    /// Consumes the first `N` bytes. Returns `None`, and consumes nothing, if there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len() < N as u64 {
            return None;
        }
        let mut bytes = [0; N];
        self.0.copy_out(&mut bytes);
        Some(bytes)
    }

    /// Consumes bytes into `out`. Returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.0.copy_out(out)
    }

    /// Writes all bytes to `file` at byte `offset`, with at most `limit` bytes per call.
    ///
    /// # Errors
    /// The write fails. Part of the data may have been written.
    pub fn write_all_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        limit: Option<usize>,
    ) -> io::Result<()> {
        self.0.write_all_at(file, offset, limit)
    }

    /// Makes one write to `stream`, and consumes the bytes written. Returns how many.
    ///
    /// # Errors
    /// The write fails; `WouldBlock` if the stream accepts no bytes now.
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

    /// Whether every piece begins at a multiple of the first number and is a multiple of the second
    /// long (host bytes).
    pub fn is_aligned(&self, to: (u32, u32)) -> bool {
        self.0.is_aligned(to)
    }

    /// Writes `bytes` at the front. Returns how many were written.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.copy_in(bytes)
    }

    /// Fills all bytes from `file` at byte `offset`.
    ///
    /// # Errors
    /// The read fails; `UnexpectedEof` if the file is too short. Part may have been filled.
    pub fn read_exact_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.0.read_exact_at(file, offset)
    }

    /// Makes one read from `stream`. Returns the bytes read, 0 at the stream's end.
    ///
    /// # Errors
    /// The read fails; `WouldBlock` if the stream has no bytes now.
    pub fn read_from(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        self.0.read_stream(stream)
    }

    /// Reserves the last byte for [`put_last`](Self::put_last); false if there is none.
    pub fn split_last(&mut self) -> bool {
        self.0.split_last()
    }

    /// Writes the reserved byte, once.
    pub fn put_last(&mut self, value: u8) {
        self.0.write_last(value);
    }
}
