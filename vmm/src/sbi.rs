//! The SBI calls that KVM leaves to us: the consoles. Everything else it answers itself.
//!
//! A call that nobody knows needs no answer from us: KVM has put NOT_SUPPORTED there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, poll};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Extension ids (SBI 2.0, § 5 and § 12).
mod extension {
    pub(super) const LEGACY_PUTCHAR: u64 = 0x01;
    pub(super) const LEGACY_GETCHAR: u64 = 0x02;
    pub(super) const DBCN: u64 = 0x4442_434e;
}

/// Functions of the debug console extension (SBI 2.0, § 12).
mod dbcn {
    pub(super) const WRITE: u64 = 0;
    pub(super) const READ: u64 = 1;
    pub(super) const WRITE_BYTE: u64 = 2;
}

/// What the calls that come to us are called, [`Call::name`] by [`Call::name`]; the last stands for all others.
pub const NAMES: [&str; 6] = [
    "legacy putchar",
    "legacy getchar",
    "DBCN write",
    "DBCN read",
    "DBCN write byte",
    "other SBI call",
];

/// Error codes (SBI 2.0, § 3).
const SUCCESS: i64 = 0;
const ERR_FAILED: i64 = -1;
const ERR_INVALID_PARAM: i64 = -3;

/// The most bytes moved by one call. A guest may ask for more and is told how far it got.
const CHUNK: u64 = 4096;

/// How long a call may wait for an output that takes nothing, in milliseconds.
const WAIT: u16 = 100;

/// A guest's `ecall`: registers a7, a6, a0 to a5, and what goes back in a0 and a1.
#[derive(Debug)]
pub struct Call<'a> {
    /// Extension id, from a7.
    pub extension: u64,
    /// Function id, from a6.
    pub function: u64,
    /// Arguments, from a0 to a5.
    pub args: [u64; 6],
    /// Error and value, to a0 and a1.
    pub ret: &'a mut [u64; 2],
}

impl Call<'_> {
    /// The place of its name in [`NAMES`].
    pub fn name(&self) -> usize {
        match (self.extension, self.function) {
            (extension::LEGACY_PUTCHAR, _) => 0,
            (extension::LEGACY_GETCHAR, _) => 1,
            (extension::DBCN, dbcn::WRITE) => 2,
            (extension::DBCN, dbcn::READ) => 3,
            (extension::DBCN, dbcn::WRITE_BYTE) => 4,
            _ => 5,
        }
    }
}

/// The SBI consoles.
pub struct Console {
    memory: Arc<GuestMemoryMmap>,
    input: File,
    output: File,
    spoken: AtomicBool,
}

impl Console {
    /// Consoles that read `input` and write `output`, neither of which blocks.
    pub fn new(memory: Arc<GuestMemoryMmap>, input: File, output: File) -> Console {
        Console {
            memory,
            input,
            output,
            spoken: AtomicBool::new(false),
        }
    }

    /// Whether the guest has sent anything.
    pub fn has_sent(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// Answers a call.
    pub fn call(&self, call: Call<'_>) {
        let [a0, a1, a2, ..] = call.args;
        let answer = match (call.extension, call.function) {
            (extension::LEGACY_PUTCHAR, _) => {
                self.put(a0);
                Ok(0)
            }
            // Legacy calls return one value, in a0.
            (extension::LEGACY_GETCHAR, _) => {
                let mut byte = [0];
                let got = (&self.input).read(&mut byte).unwrap_or(0);
                *call.ret = [if got == 1 { byte[0].into() } else { u64::MAX }, 0];
                return;
            }
            (extension::DBCN, dbcn::WRITE) => self.write(a0, a1, a2),
            (extension::DBCN, dbcn::READ) => self.read(a0, a1, a2),
            (extension::DBCN, dbcn::WRITE_BYTE) => match self.put(a0) {
                true => Ok(0),
                false => Err(ERR_FAILED),
            },
            _ => return,
        };
        *call.ret = match answer {
            Ok(value) => [SUCCESS.cast_unsigned(), value],
            Err(code) => [code.cast_unsigned(), 0],
        };
    }

    /// § 12.1: writes the guest's bytes and returns how many; fewer than it asked for are legal.
    fn write(&self, len: u64, low: u64, high: u64) -> Result<u64, i64> {
        let (address, count) = self.range(len, low, high)?;
        let mut bytes = vec![0; count];
        let read = self.memory.read_slice(&mut bytes, address);
        read.map_err(|_| ERR_INVALID_PARAM)?;
        self.spoken.fetch_or(count > 0, Ordering::Relaxed);
        Ok(send(&self.output, &bytes) as u64)
    }

    /// § 12.2: reads what input there is, without waiting, and returns how much.
    fn read(&self, len: u64, low: u64, high: u64) -> Result<u64, i64> {
        let (address, count) = self.range(len, low, high)?;
        let mut bytes = vec![0; count];
        let got = match (&self.input).read(&mut bytes) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(ERR_FAILED),
        };
        let bytes = bytes.get(..got).unwrap_or_default();
        let written = self.memory.write_slice(bytes, address);
        written.map_err(|_| ERR_INVALID_PARAM)?;
        Ok(got as u64)
    }

    /// The first part, of at most [`CHUNK`] bytes, of a buffer that must all be RAM.
    fn range(&self, len: u64, low: u64, high: u64) -> Result<(GuestAddress, usize), i64> {
        let whole = usize::try_from(len).map_err(|_| ERR_INVALID_PARAM)?;
        let count = usize::try_from(len.min(CHUNK)).map_err(|_| ERR_INVALID_PARAM)?;
        let address = GuestAddress(low);
        // The upper half of an address: no RAM of ours lies beyond 2^64.
        if high == 0 && GuestMemoryBackend::check_range(&*self.memory, address, whole) {
            Ok((address, count))
        } else {
            Err(ERR_INVALID_PARAM)
        }
    }

    fn put(&self, byte: u64) -> bool {
        self.spoken.store(true, Ordering::Relaxed);
        // The calls pass a character in the low byte.
        #[expect(clippy::cast_possible_truncation, reason = "the low byte of it")]
        let sent = send(&self.output, &[byte as u8]);
        sent == 1
    }
}

/// Writes what `output` takes, and waits a while until it takes something. Returns how much, 0 if that was in vain or the
/// vCPU is wanted elsewhere: then the guest tries again, which lets the vCPU see whether to stop. Output that nobody reads any more counts as written.
fn send(mut output: &File, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    loop {
        match output.write(bytes) {
            Ok(count) => return count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return 0,
            Err(_) => return bytes.len(),
        }
        let mut room = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
        // A signal that comes just before the wait does not end it, so it must end by itself.
        if !matches!(poll(&mut room, WAIT), Ok(1..)) {
            return 0;
        }
    }
}

#[cfg(test)]
#[path = "sbi_test.rs"]
mod tests;
