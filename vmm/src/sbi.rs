//! The SBI calls that KVM forwards to user space: the consoles. KVM handles all others.
//!
//! An unknown call needs no reply: KVM has already stored NOT_SUPPORTED.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::output::Output;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Extension IDs (SBI 2.0, § 5 and § 12).
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

/// Names of the calls, indexed by [`Call::name`]; the last one stands for all other calls.
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

/// Maximum bytes transferred per call. The reply gives the number of bytes, and the guest continues
/// from there.
const CHUNK: u64 = 4096;

/// How long a call waits for output that accepts nothing: 100 ms.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A guest's `ecall`: registers a7, a6 and a0 to a5, and the reply in a0 and a1.
#[derive(Debug)]
pub struct Call<'a> {
    /// Extension ID, from a7.
    pub extension: u64,
    /// Function id, from a6.
    pub function: u64,
    /// Arguments, from a0 to a5.
    pub args: [u64; 6],
    /// Error and value, to a0 and a1.
    pub ret: &'a mut [u64; 2],
}

impl Call<'_> {
    /// Returns the index of its name in [`NAMES`].
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
    output: Output,
    spoken: AtomicBool,
}

impl Console {
    /// Creates consoles that read `input` and write `output`. Both are non-blocking.
    pub fn new(memory: Arc<GuestMemoryMmap>, input: File, output: impl Into<Output>) -> Console {
        Console { memory, input, output: output.into(), spoken: AtomicBool::new(false) }
    }

    /// Whether the guest has written anything.
    pub fn has_sent(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// Handles a call.
    pub fn call(&self, call: Call<'_>) {
        let [a0, a1, a2, ..] = call.args;
        let answer = match (call.extension, call.function) {
            (extension::LEGACY_PUTCHAR, _) => {
                // The legacy call cannot make the guest retry.
                if !self.put(a0) {
                    self.output.lost().add(1);
                }
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

    /// § 12.1: writes the guest's bytes and returns how many. Fewer than requested is legal.
    fn write(&self, len: u64, low: u64, high: u64) -> Result<u64, i64> {
        let (address, count) = self.range(len, low, high)?;
        let mut bytes = vec![0; count];
        let read = self.memory.read_slice(&mut bytes, address);
        read.map_err(|_| ERR_INVALID_PARAM)?;
        self.spoken.fetch_or(count > 0, Ordering::Relaxed);
        Ok(send(&self.output, &bytes) as u64)
    }

    /// § 12.2: reads the available input without waiting, and returns the number of bytes.
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

    /// Returns the first [`CHUNK`] bytes at most of a buffer, all of which must be RAM.
    fn range(&self, len: u64, low: u64, high: u64) -> Result<(GuestAddress, usize), i64> {
        let whole = usize::try_from(len).map_err(|_| ERR_INVALID_PARAM)?;
        let count = usize::try_from(len.min(CHUNK)).map_err(|_| ERR_INVALID_PARAM)?;
        let address = GuestAddress(low);
        // The upper half of the address is not 0: there is no RAM beyond 2^64.
        if high == 0 && GuestMemoryBackend::check_range(&*self.memory, address, whole) {
            Ok((address, count))
        } else {
            Err(ERR_INVALID_PARAM)
        }
    }

    fn put(&self, byte: u64) -> bool {
        self.spoken.store(true, Ordering::Relaxed);
        // The character is in the low byte.
        #[expect(clippy::cast_possible_truncation, reason = "the low byte of it")]
        let sent = send(&self.output, &[byte as u8]);
        sent == 1
    }
}

/// Writes to `output` and waits up to [`WAIT`] for space. Returns the bytes written or lost, or 0
/// if there was no space or a signal came: the guest retries, which lets the vCPU check whether to
/// stop.
fn send(output: &Output, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    loop {
        if let Some(count) = output.write(bytes) {
            return count;
        }
        let mut room = [PollFd::new(output, PollFlags::OUT)];
        // A signal just before poll() does not interrupt it, hence the timeout.
        if !matches!(poll(&mut room, Some(&WAIT)), Ok(1..)) {
            return 0;
        }
    }
}

#[cfg(test)]
#[path = "sbi_test.rs"]
mod tests;
