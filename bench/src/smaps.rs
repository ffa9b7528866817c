//! The memory of a process, as results keep it.

use observe::smaps::usage;
use serde::{Deserialize, Serialize};

/// What a VMM takes beside its guest's RAM, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its proportional share of all its pages.
    pub pss: u64,
    /// The anonymous ones: heap, stacks, written data.
    pub anonymous: u64,
}

/// Adds up the mappings in the text of a `smaps` file, except the guest's RAM of `ram` KiB.
pub fn beside_ram(text: &str, ram: u64) -> Memory {
    let usage = usage(text, ram << 10);
    Memory {
        pss: usage.pss,
        anonymous: usage.anonymous,
    }
}

/// Adds up all mappings, the guest's RAM included: its share of all pages, in KiB.
pub fn with_ram(text: &str) -> u64 {
    usage(text, u64::MAX).pss
}
