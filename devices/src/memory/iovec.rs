//! The buffers of a descriptor chain: ranges of guest memory, copied or passed to system calls.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use vm_memory::VolatileSlice;

use super::Memory;

mod writable;

/// The most iovecs per `preadv`: the kernel's UIO_MAXIOV.
const IOV_MAX: usize = 1024;

/// A range of guest memory, in the kernel's format.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct IoVec(libc::iovec);

// SAFETY: it is an address and a length. `IoVecs` uses them, and holds the memory.
unsafe impl Send for IoVec {}

impl IoVec {
    pub(super) fn new(host: NonNull<u8>, len: usize) -> Self {
        IoVec(libc::iovec { iov_base: host.as_ptr().cast(), iov_len: len })
    }

    fn len(&self) -> usize {
        self.0.iov_len
    }

    fn host(&self) -> *const u8 {
        self.0.iov_base.cast()
    }

    fn split(&self, at: usize) -> (IoVec, IoVec) {
        let at = at.min(self.len());
        let host = self.0.iov_base.cast::<u8>();
        let piece = |base: *mut u8, iov_len| IoVec(libc::iovec { iov_base: base.cast(), iov_len });
        (
            piece(host, at),
            piece(host.wrapping_add(at), self.len() - at),
        )
    }

    /// For one copy. The caller holds the `Memory` that this was translated from.
    pub(super) fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: every `IoVec` comes from `Memory::translate` or is part of one that does. Its
        // holder also holds the `Memory` (`IoVecs::ram`), so the range stays mapped while `self` is
        // borrowed.
        unsafe { VolatileSlice::new(self.0.iov_base.cast(), self.len()) }
    }
}

/// One direction of a descriptor chain: ranges of guest memory, consumed from the front.
pub struct IoVecs<Direction> {
    pieces: Vec<IoVec>,
    /// The number of `pieces` that are consumed.
    done: usize,
    /// Bytes left.
    len: u64,
    /// The byte that `split_last` reserved.
    last: Option<IoVec>,
    /// The bytes that `note` remembered.
    noted: [Option<IoVec>; 2],
    ram: Memory,
    direction: PhantomData<Direction>,
}

/// The direction of [`Readable`].
pub enum ToDevice {}

/// The direction of [`Writable`].
pub enum FromDevice {}

/// Bytes that the device may read and must not write.
pub type Readable = IoVecs<ToDevice>;

/// Bytes that the device may write.
pub type Writable = IoVecs<FromDevice>;

impl<Direction> IoVecs<Direction> {
    pub(crate) fn new(ram: Memory) -> Self {
        IoVecs {
            pieces: Vec::new(),
            done: 0,
            len: 0,
            last: None,
            noted: [None; 2],
            ram,
            direction: PhantomData,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.done = 0;
        self.len = 0;
        self.last = None;
        self.noted = [None; 2];
    }

    /// Appends `len` bytes at guest address `address`; `None` if they are not all RAM.
    #[inline(always)]
    pub(crate) fn append(&mut self, address: u64, len: u32) -> Option<()> {
        if len > 0 {
            let host = self.ram.translate(address, len.into())?;
            self.pieces.push(IoVec::new(host, len as usize));
            self.len += u64::from(len);
        }
        Some(())
    }

    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether each piece left starts at a multiple of `memory` bytes and its length is a multiple
    /// of `len` bytes. Neither may be 0.
    pub fn is_aligned(&self, (memory, len): (u32, u32)) -> bool {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        left.iter().all(|piece| {
            let address = piece.0.iov_base.addr();
            address.is_multiple_of(memory as usize) && piece.len().is_multiple_of(len as usize)
        })
    }

    /// Drops the first `count` bytes.
    fn skip(&mut self, mut count: u64) {
        self.len = self.len.saturating_sub(count);
        while let Some(piece) = self.pieces.get_mut(self.done) {
            let here = piece.len() as u64;
            if count < here {
                // It fits: `count` is less than the length of a piece.
                piece.0 = piece.split(usize::try_from(count).unwrap_or(0)).1.0;
                break;
            }
            count -= here;
            self.done += 1;
        }
    }

    /// Drops all but the first `count` bytes.
    pub fn truncate(&mut self, count: u64) {
        while self.len > count {
            let Some(last) = self.pieces.pop() else {
                return;
            };
            self.len -= last.len() as u64;
            if self.len < count {
                let keep = usize::try_from(count - self.len).unwrap_or(0);
                self.pieces.push(last.split(keep).0);
                self.len = count;
            }
        }
    }

    /// Records that the first `count` bytes left were written.
    fn mark_dirty(&self, mut count: u64) {
        if !self.ram.is_recorded() {
            return;
        }
        for piece in self.pieces.iter().skip(self.done) {
            let here = usize::try_from(count).map_or(piece.len(), |count| count.min(piece.len()));
            self.ram.mark_dirty(piece.host(), here);
            count -= here as u64;
        }
    }

    /// Makes one vectored system call for the bytes left, or for at most `limit` bytes, and
    /// consumes the bytes that it transferred. `fills` says whether it writes guest memory.
    fn vectored(
        &mut self,
        fills: bool,
        limit: Option<usize>,
        call: impl Fn(*const libc::iovec, i32) -> isize,
    ) -> io::Result<u64> {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        let cut;
        let left = match limit.map(|limit| (limit, whole_within(left, limit))) {
            None => left,
            // The first piece alone is too long.
            Some((limit, 0)) => {
                cut = left.first().map(|first| first.split(limit).0);
                cut.as_slice()
            }
            Some((_, count)) => left.get(..count).unwrap_or_default(),
        };
        let count = i32::try_from(left.len().min(IOV_MAX)).unwrap_or(0);
        // `IoVec` is `repr(transparent)` over iovec.
        match uninterrupted(|| call(left.as_ptr().cast(), count)) {
            Ok(moved) => {
                let moved = moved as u64;
                if fills {
                    self.mark_dirty(moved);
                }
                self.skip(moved);
                Ok(moved)
            }
            Err(error) => {
                // Direct I/O may have filled a part before it failed.
                if fills && error.kind() != io::ErrorKind::WouldBlock {
                    self.mark_dirty(self.len);
                }
                Err(error)
            }
        }
    }
}

impl Readable {
    /// Consumes the first `N` bytes. Returns `None`, and consumes nothing, if there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len() < N as u64 {
            return None;
        }
        let mut bytes = [0; N];
        match self.pieces.get(self.done) {
            // Drivers give a header a buffer of its own.
            Some(piece) if piece.len() == N => {
                piece.volatile().copy_to(bytes.as_mut_slice());
                self.done += 1;
                self.len -= N as u64;
            }
            _ => _ = self.read(&mut bytes),
        }
        Some(bytes)
    }

    /// Copies bytes from the front to `out`, and consumes them. Returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.iter().skip(self.done) {
            let Some(rest) = out.get_mut(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            copied += piece.volatile().copy_to(rest);
        }
        self.skip(copied as u64);
        copied
    }

    /// Writes all bytes to `file` at byte `offset`, with at most `limit` bytes per call.
    ///
    /// # Errors
    /// The write fails. Part of the data may have been written.
    pub fn write_all_at(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        limit: Option<usize>,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs are mapped guest RAM (`ram` is held), which the kernel only reads.
            let moved = self.vectored(false, limit, |iov, n| unsafe {
                libc::pwritev(file.as_raw_fd(), iov, n, at)
            })?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += moved;
        }
        Ok(())
    }

    /// Makes one write to `stream`, and consumes the bytes written. Returns how many.
    ///
    /// # Errors
    /// The write fails; `WouldBlock` if the stream accepts no bytes now.
    pub fn write_to(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held), which the kernel only reads.
        self.vectored(false, None, |iov, n| unsafe {
            libc::writev(stream.as_raw_fd(), iov, n)
        })
    }

    /// As [`write_to`](Self::write_to), with `before` in front. Returns all bytes written.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to).
    pub fn write_after(&mut self, before: &[u8], stream: BorrowedFd<'_>) -> io::Result<usize> {
        let first = IoVec::new(NonNull::from(before).cast(), before.len());
        self.pieces.insert(self.done, first);
        self.len += before.len() as u64;
        let written = self
            .write_to(stream)
            .map(|written| usize::try_from(written).unwrap_or(usize::MAX));
        let left = before.len().saturating_sub(*written.as_ref().unwrap_or(&0));
        if left > 0 {
            self.skip(left as u64);
        }
        written
    }
}

/// How many of the first pieces fit into `limit` bytes.
fn whole_within(pieces: &[IoVec], mut limit: usize) -> usize {
    let fits = |piece: &&IoVec| {
        let rest = limit.checked_sub(piece.len());
        limit = rest.unwrap_or(0);
        rest.is_some()
    };
    pieces.iter().take_while(fits).count()
}

/// Makes a system call, again as long as a signal interrupts it. Returns what it returns.
fn uninterrupted(call: impl Fn() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
