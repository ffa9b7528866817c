//! What a chain is made of: pieces of memory, first those that the device reads.

use crate::{Error, Region};

/// One piece of a chain: what one descriptor describes.
///
/// The fields are open, so that a test can lie to a device about addresses and lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bus address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it (else it reads).
    pub writable: bool,
}

impl Segment {
    /// All of `region`, for the device to read.
    ///
    /// # Panics
    ///
    /// If the region is larger than 4 GiB.
    pub fn readable(region: &Region) -> Self {
        let len = u32::try_from(region.len());
        assert!(len.is_ok(), "a segment of {} bytes", region.len());
        Self { address: region.bus(), len: len.unwrap_or_default(), writable: false }
    }

    /// All of `region`, for the device to write.
    ///
    /// # Panics
    ///
    /// As [`readable`](Self::readable).
    pub fn writable(region: &Region) -> Self {
        Self { writable: true, ..Self::readable(region) }
    }
}

/// How a chain lies in the descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One descriptor for each segment.
    Direct,
    /// The first `direct` segments have a descriptor each, one more refers to a table of the
    /// rest (§2.7.5.3). Drivers use 0; devices must accept any number (§2.7.5.3.2).
    Indirect {
        /// Segments before the table.
        direct: u16,
    },
}

/// Checks a chain by §2.7.4 and §2.7.5.3.1 for a queue of `size`; returns its writable bytes.
pub(super) fn check(segments: &[Segment], size: u16) -> Result<u64, Error> {
    let count = 1..=usize::from(size);
    let ordered = segments.is_sorted_by_key(|segment| segment.writable);
    let filled = segments.iter().all(|segment| segment.len > 0);
    // Not more than 2^32 bytes in all (§2.7.4.1).
    if !count.contains(&segments.len()) || !ordered || !filled || bytes(segments) > 1 << 32 {
        return Err(refused(segments));
    }
    Ok(segments
        .iter()
        .filter(|segment| segment.writable)
        .map(|segment| u64::from(segment.len))
        .sum())
}

/// The error for a chain that is not legal.
pub(super) fn refused(segments: &[Segment]) -> Error {
    Error::Chain { segments: segments.len(), bytes: bytes(segments) }
}

fn bytes(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}
