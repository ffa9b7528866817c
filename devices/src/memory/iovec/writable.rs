//! Buffers that the device writes: filled from bytes, or by system calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};

use super::{IOV_MAX, IoVec, Writable, file_offset, uninterrupted};

/// The most pieces behind a header that are filled by one read.
const BEHIND_MAX: usize = 16;

impl Writable {
    /// Makes the bytes left of `next` follow these, for one call. Returns false if a system call
    /// does not take so many pieces. Undo it with [`truncate`](Self::truncate).
    #[must_use]
    pub fn extend(&mut self, next: &Writable) -> bool {
        let more = next.pieces.get(next.done..).unwrap_or_default();
        // One is left for a rest.
        let fits = self.pieces.len() - self.done + more.len() < IOV_MAX;
        if fits {
            self.pieces.extend_from_slice(more);
            self.len += next.len;
        }
        fits
    }

    /// Gives the memory of the bytes left back to the host, as far as each piece has whole pages of
    /// it. Returns their number in bytes.
    pub fn discard(&self) -> u64 {
        let left = self.pieces.get(self.done..).unwrap_or_default();
        let discarded = left
            .iter()
            .map(|piece| self.ram.discard_at(piece.0.iov_base.cast(), piece.len()));
        discarded.sum()
    }

    /// Writes `bytes` at the front. Returns how many were written.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.iter().skip(self.done) {
            let Some(rest) = bytes.get(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            let count = rest.len().min(piece.len());
            piece.volatile().copy_from(rest);
            self.ram.mark_dirty(piece.host(), count);
            copied += count;
        }
        self.skip(copied as u64);
        copied
    }

    /// Fills all bytes from `file` at byte `offset`.
    ///
    /// # Errors
    /// The read fails; `UnexpectedEof` if the file is too short. Part may have been filled.
    pub fn read_exact_at(&mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the iovecs are mapped guest RAM (`ram` is held). The kernel may write it: the
            // guest made these buffers writable.
            let moved = self.vectored(true, None, |iov, n| unsafe {
                libc::preadv(file.as_raw_fd(), iov, n, at)
            })?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += moved;
        }
        Ok(())
    }

    /// Makes one read from `stream`. Returns the bytes read, 0 at the stream's end.
    ///
    /// # Errors
    /// The read fails; `WouldBlock` if the stream has no bytes now.
    pub fn read_from(&mut self, stream: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held). The kernel may write it: the
        // guest made these buffers writable.
        self.vectored(true, None, |iov, n| unsafe {
            libc::readv(stream.as_raw_fd(), iov, n)
        })
    }

    /// Makes one read of at most `limit` bytes from `stream` to behind the first `skipped` bytes, and
    /// consumes nothing: what the first bytes must be is known only now. Returns the bytes read, 0
    /// at the stream's end. Of a long chain only the first pieces are used.
    ///
    /// # Errors
    /// The read fails; `WouldBlock` if the stream has no bytes now.
    pub fn read_from_behind(
        &self,
        mut skipped: usize,
        mut limit: usize,
        stream: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let mut places = [IoVec(libc::iovec { iov_base: null_mut(), iov_len: 0 }); BEHIND_MAX];
        let mut count = 0;
        for piece in self.pieces.iter().skip(self.done) {
            let (before, behind) = piece.split(skipped);
            skipped -= before.len();
            let here = behind.split(limit).0;
            if here.len() > 0
                && let Some(place) = places.get_mut(count)
            {
                *place = here;
                limit -= here.len();
                count += 1;
            }
        }
        let iovecs = i32::try_from(count).unwrap_or(0);
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held). The kernel may write it: the guest
        // made these buffers writable. `IoVec` is `repr(transparent)` over iovec.
        let read = uninterrupted(|| unsafe {
            libc::readv(stream.as_raw_fd(), places.as_ptr().cast(), iovecs)
        })?;
        let mut left = read;
        for place in &places {
            let here = left.min(place.len());
            self.ram.mark_dirty(place.host(), here);
            left -= here;
        }
        Ok(read)
    }

    /// As [`read_from`](Self::read_from), but bytes that do not fit go into `rest`. Returns all
    /// bytes read. `rest` is not used if there are as many pieces as a system call takes.
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from).
    pub fn read_from_with(&mut self, stream: BorrowedFd<'_>, rest: &mut [u8]) -> io::Result<usize> {
        let room = self.len;
        self.pieces
            .push(IoVec::new(NonNull::from(&mut *rest).cast(), rest.len()));
        let left = self.pieces.get(self.done..).unwrap_or_default();
        let count = i32::try_from(left.len().min(IOV_MAX)).unwrap_or(0);
        // SAFETY: the iovecs are mapped guest RAM (`ram` is held), which the guest made writable, and
        // at the end `rest`. `IoVec` is `repr(transparent)` over iovec.
        let read = uninterrupted(|| unsafe {
            libc::readv(stream.as_raw_fd(), left.as_ptr().cast(), count)
        });
        self.pieces.pop();
        let here = *read.as_ref().unwrap_or(&0) as u64;
        self.mark_dirty(here.min(room));
        self.skip(here.min(room));
        read
    }

    /// Remembers the place of the two bytes at `offset` from the front, for
    /// [`put_noted`](Self::put_noted) after they are consumed. A place past the end is ignored.
    pub fn note(&mut self, mut offset: usize) {
        self.noted = [None; 2];
        let mut noted = self.noted.iter_mut();
        let mut next = noted.next();
        for piece in self.pieces.iter().skip(self.done) {
            while offset < piece.len()
                && let Some(place) = next
            {
                *place = Some(piece.split(offset).1.split(1).0);
                offset += 1;
                next = noted.next();
            }
            offset = offset.saturating_sub(piece.len());
        }
    }

    /// Writes the two bytes whose place was remembered.
    pub fn put_noted(&mut self, bytes: [u8; 2]) {
        for (place, byte) in self.noted.into_iter().zip(bytes) {
            if let Some(place) = place {
                place.volatile().copy_from(&[byte]);
                self.ram.mark_dirty(place.host(), 1);
            }
        }
    }

    /// Reserves the last byte for [`put_last`](Self::put_last); false if there is none.
    pub fn split_last(&mut self) -> bool {
        let last = self.pieces.get(self.done..).and_then(<[IoVec]>::last);
        self.last = last.map(|piece| piece.split(piece.len() - 1).1);
        self.truncate(self.len.saturating_sub(1));
        self.last.is_some()
    }

    /// Writes the reserved byte, once.
    pub fn put_last(&mut self, value: u8) {
        if let Some(byte) = self.last.take() {
            byte.volatile().copy_from(&[value]);
            self.ram.mark_dirty(byte.host(), 1);
        }
    }
}
