//! The output of a VMM and its guest.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, poll};

/// Maximum time without output, in milliseconds of the host's clock. That clock skips idle time, so
/// a hanging guest or VMM is noticed soon.
const SILENCE: u16 = 60_000;

/// Data received from a pipe.
pub(crate) struct Output {
    pipe: PipeReader,
    pub(crate) seen: Vec<u8>,
}

impl Output {
    pub(crate) fn new(pipe: PipeReader) -> Output {
        Output { pipe, seen: Vec::new() }
    }

    /// Waits for more output and returns its number of bytes: 0 at the end.
    pub(crate) fn read(&mut self) -> Result<usize> {
        let mut pipe = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        ensure!(
            poll(&mut pipe, SILENCE)? > 0,
            "nothing came from the console for {} s",
            SILENCE / 1000
        );
        let mut bytes = [0; 16384];
        let count = self.pipe.read(&mut bytes)?;
        self.seen.extend(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Reads until `text` arrives. Returns false at the end of the output.
    pub(crate) fn wait_for(&mut self, text: &[u8]) -> Result<bool> {
        while !self.seen.windows(text.len()).any(|window| window == text) {
            if self.read()? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the end of the output.
    pub(crate) fn tail(&self) -> String {
        let start = self.seen.len().saturating_sub(2000);
        String::from_utf8_lossy(self.seen.get(start..).unwrap_or_default()).into_owned()
    }
}
