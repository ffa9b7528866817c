//! The memory of a process.

use observe::smaps::usage;
use serde::{Deserialize, Serialize};

/// The memory of a VMM without its guest's RAM, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its proportional share of all its pages (PSS).
    pub pss: u64,
    /// Its anonymous pages: heap, stacks, written data.
    pub anonymous: u64,
}

/// Sums up the mappings in the text of a `smaps` file, without the guest's RAM of `ram` KiB.
pub fn beside_ram(text: &str, ram: u64) -> Memory {
    let usage = usage(text, ram << 10);
    Memory { pss: usage.pss, anonymous: usage.anonymous }
}

/// Sums up the PSS of all mappings, including the guest's RAM, in KiB.
pub fn with_ram(text: &str) -> u64 {
    usage(text, u64::MAX).pss
}
