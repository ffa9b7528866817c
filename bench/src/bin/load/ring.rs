//! Many requests in flight from one thread: io_uring.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};

/// Requests in flight.
const DEPTH: usize = 32;

pub(crate) struct Ring(IoUring);

impl Ring {
    pub(crate) fn new() -> Result<Ring> {
        Ok(Ring(
            IoUring::new(u32::try_from(DEPTH)?).context("io_uring")?,
        ))
    }

    /// Reads or writes each part at its offset with [`DEPTH`] requests in flight, and waits for
    /// all.
    #[allow(unsafe_code)]
    pub(crate) fn run<'a>(
        &mut self,
        file: &File,
        write: bool,
        mut parts: impl Iterator<Item = (&'a mut [u8], u64)>,
    ) -> Result<()> {
        let file = types::Fd(file.as_raw_fd());
        let (mut in_flight, mut failed) = (0, None);
        loop {
            for (part, offset) in parts.by_ref().take(DEPTH - in_flight) {
                let length = u32::try_from(part.len())?;
                let entry = if write {
                    opcode::Write::new(file, part.as_ptr(), length)
                        .offset(offset)
                        .build()
                } else {
                    opcode::Read::new(file, part.as_mut_ptr(), length)
                        .offset(offset)
                        .build()
                };
                let entry = entry.user_data(length.into());
                // SAFETY: the part outlives this call ('a), is borrowed mutably, and this call
                // returns only when no request is in flight.
                unsafe { self.0.submission().push(&entry) }.context("the ring is full")?;
                in_flight += 1;
            }
            if in_flight == 0 {
                break;
            }
            if self.0.submit_and_wait(1).is_err() {
                // The kernel may still write to the parts, so the program cannot continue.
                std::process::abort();
            }
            for done in self.0.completion() {
                in_flight -= 1;
                if u64::try_from(done.result()) != Ok(done.user_data()) {
                    failed = Some(done.result());
                }
            }
        }
        ensure!(failed.is_none(), "a request ended with {failed:?}");
        Ok(())
    }
}
