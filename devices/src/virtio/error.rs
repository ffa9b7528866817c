//! The ways in which a ring can be invalid.

use thiserror::Error;

/// The ring is invalid: no correct driver builds it. The device needs a reset.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum QueueError {
    /// The size is not a power of two, or above the maximum.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// The size that the driver set.
        size: u16,
        /// The maximum that the device offers.
        max: u16,
    },
    /// An area of the ring is misaligned or not RAM.
    #[error("the {area} at {address:#x} is misaligned or not RAM")]
    Area {
        /// The area's name.
        area: &'static str,
        /// Its guest address.
        address: u64,
    },
    /// The available index is further ahead than the ring's size.
    #[error("available index {idx} is more than {size} ahead of {next}")]
    AvailableIndex {
        /// The index that the driver set.
        idx: u16,
        /// The index of the next entry to read.
        next: u16,
        /// The ring's size.
        size: u16,
    },
    /// A descriptor index is outside its table.
    #[error("descriptor {index} of a table of {size}")]
    DescriptorIndex {
        /// The index in the ring or in a descriptor.
        index: u32,
        /// The table's size.
        size: u32,
    },
    /// The chain loops, or is longer than allowed.
    #[error("descriptor chain at {head} has more than {max} descriptors: it loops or is too long")]
    ChainLength {
        /// The chain's first descriptor.
        head: u16,
        /// The most descriptors allowed.
        max: u32,
    },
    /// A buffer is not all RAM.
    #[error("buffer of {len} bytes at {address:#x} is not RAM")]
    Buffer {
        /// Its guest address.
        address: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A device-readable buffer follows a device-writable one.
    #[error("descriptor chain at {head} has a readable buffer after a writable one")]
    Order {
        /// The chain's first descriptor.
        head: u16,
    },
    /// The chain's buffers have more than 2^32 bytes.
    #[error("descriptor chain at {head} has more than 2^32 bytes")]
    TotalLength {
        /// The chain's first descriptor.
        head: u16,
    },
    /// An indirect descriptor is invalid, or not allowed here.
    #[error("indirect descriptor with flags {flags:#x} and length {len}: {why}")]
    Indirect {
        /// The descriptor's flags.
        flags: u16,
        /// The table's length in bytes.
        len: u32,
        /// What is wrong with it.
        why: &'static str,
    },
}
