//! What is wrong with a ring: the ways in which a driver can break its queue.

use thiserror::Error;

/// A ring that no correct driver builds. The device needs a reset.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum QueueError {
    /// The size is no power of two, or above the maximum.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// As the driver set it.
        size: u16,
        /// What the device offers.
        max: u16,
    },
    /// A part of the ring is misaligned or not RAM.
    #[error("the {area} at {address:#x} is misaligned or not RAM")]
    Area {
        /// Which part.
        area: &'static str,
        /// Its guest address.
        address: u64,
    },
    /// The available index is further ahead than the ring is long.
    #[error("available index {idx} is more than {size} ahead of {next}")]
    AvailableIndex {
        /// As the driver set it.
        idx: u16,
        /// The entry that we read next.
        next: u16,
        /// The ring's size.
        size: u16,
    },
    /// A descriptor index is outside its table.
    #[error("descriptor {index} of a table of {size}")]
    DescriptorIndex {
        /// As found in the ring or in a descriptor.
        index: u32,
        /// The table's size.
        size: u32,
    },
    /// The chain loops, or is longer than any driver may make it.
    #[error("descriptor chain at {head} has more than {max} descriptors: it loops or is too long")]
    ChainLength {
        /// The chain's first descriptor.
        head: u16,
        /// The bound that it passed.
        max: u32,
    },
    /// A buffer is not all RAM.
    #[error("buffer of {len} bytes at {address:#x} is not RAM")]
    Buffer {
        /// Guest address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// A device-readable buffer follows a device-writable one.
    #[error("descriptor chain at {head} has a readable buffer after a writable one")]
    Order {
        /// The chain's first descriptor.
        head: u16,
    },
    /// The buffers of the chain have more than 2^32 bytes.
    #[error("descriptor chain at {head} has more than 2^32 bytes")]
    TotalLength {
        /// The chain's first descriptor.
        head: u16,
    },
    /// An indirect descriptor where none may be, or of an impossible form.
    #[error("indirect descriptor with flags {flags:#x} and length {len}: {why}")]
    Indirect {
        /// Descriptor flags.
        flags: u16,
        /// The table's length in bytes.
        len: u32,
        /// What is wrong with it.
        why: &'static str,
    },
}
