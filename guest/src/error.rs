//! The errors of drivers and of the device tree reader.

/// An error of a driver or of the device tree reader, with the values found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MagicValue (§4.2.2) is not "virt".
    #[error("not a virtio-mmio device: magic {0:#010x}, not 0x74726976")]
    Magic(u32),
    /// A virtio-mmio version other than 2.
    #[error(
        "virtio-mmio version {0}, but only 2 is driven (QEMU: -global virtio-mmio.force-legacy=false)"
    )]
    Version(u32),
    /// The device is of a different kind than the driver.
    #[error("device id {found}, not {wanted}")]
    DeviceId {
        /// DeviceID as read.
        found: u32,
        /// The driver's id.
        wanted: u32,
    },
    /// The status register did not become 0.
    #[error("status {0:#x} after a reset, not 0")]
    Reset(u32),
    /// The device does not offer VERSION_1.
    #[error("features {0:#x} offered, without VERSION_1")]
    Legacy(u64),
    /// FEATURES_OK did not stick (§3.1.1).
    #[error("the device refused the features {0:#x}")]
    FeaturesRefused(u64),
    /// The device set DEVICE_NEEDS_RESET or lost DRIVER_OK.
    #[error("the device gave up: status {0:#x}")]
    NeedsReset(u32),
    /// ConfigGeneration changed during every attempt at a read.
    #[error("the device's configuration never stops changing")]
    ConfigUnstable,
    /// QueueSizeMax is 0, or QueueReady is already 1.
    #[error("queue {0} is absent or in use")]
    QueueUnavailable(u16),
    /// The DMA arena is used up.
    #[error("the DMA arena has {left} bytes left, but {wanted} are needed")]
    OutOfDma {
        /// Bytes requested.
        wanted: usize,
        /// Bytes left.
        left: usize,
    },
    /// No segment, an empty one, a readable one after a writable one, too many for the table, or
    /// more than 2^32 bytes.
    #[error("no legal descriptor chain (§2.7.4): {segments} segments, {bytes} bytes")]
    Chain {
        /// Segments given.
        segments: usize,
        /// Bytes in all.
        bytes: u64,
    },
    /// Too few free descriptors or request slots at the moment: complete a request first.
    #[error("the queue is full")]
    QueueFull,
    /// used.idx is beyond the number of available chains.
    #[error("used.idx {index} is past what is in flight ({in_flight} chains after {next})")]
    UsedIndex {
        /// used.idx as read.
        index: u16,
        /// The next entry the driver expects.
        next: u16,
        /// Chains that the device holds.
        in_flight: u16,
    },
    /// A used entry names a descriptor that is not the head of a chain in flight.
    #[error("used entry for descriptor {0}, which heads no chain in flight")]
    UsedId(u32),
    /// A used entry claims more bytes than the chain's writable segments hold.
    #[error("used entry of {written} bytes in a chain with {writable} writable bytes")]
    UsedLength {
        /// `len` as read.
        written: u32,
        /// Bytes the device was allowed to write.
        writable: u32,
    },
    /// The deadline passed.
    #[error("no answer from the device before the deadline")]
    Timeout,
    /// A block request ended with a status other than OK (§5.2.6).
    #[error("the request ended with {0:?}")]
    Request(crate::block::Status),
    /// The device answered with fewer bytes than the request has.
    #[error("{written} bytes written by the device, not {expected}")]
    Short {
        /// Bytes as reported by the device.
        written: u32,
        /// Bytes of a whole answer.
        expected: u64,
    },
    /// A frame is too long to be sent.
    #[error("a frame of {len} bytes, but at most {max} can be sent")]
    FrameLength {
        /// Bytes of the frame.
        len: usize,
        /// Bytes of the longest.
        max: usize,
    },
    /// A received frame is not in as many buffers as its header says (§5.1.6.4).
    #[error("a frame with num_buffers {claimed}, but only {used} used buffers")]
    NumBuffers {
        /// `num_buffers` as read.
        claimed: u16,
        /// Buffers that the device has used.
        used: u16,
    },
    /// The peer has refused or reset the connection.
    #[error("the peer has reset the connection")]
    ConnectionReset,
    /// Data for a stream after one side has ended it.
    #[error("the stream takes no more data")]
    Finished,
    /// Too many streams at the moment: close one first.
    #[error("no place for another stream")]
    Streams,
    /// A buffer is not a positive multiple of 512 bytes.
    #[error("{0} bytes are not a positive multiple of 512")]
    NotSectors(usize),
    /// The cuts of a framed request do not add up to it.
    #[error("cuts of {cuts} bytes in a request of {request} bytes")]
    Cuts {
        /// Sum of the cuts.
        cuts: usize,
        /// Bytes of the request.
        request: usize,
    },
    /// The blob is not a device tree.
    #[error("no flattened device tree: {0}")]
    Fdt(dtoolkit::error::FdtParseError),
    /// The device tree lacks this node or property, or its value has the wrong form.
    #[error("device tree: {0} is missing or malformed")]
    FdtMissing(&'static str),
    /// This hart has no node in the device tree.
    #[error("device tree: no /cpus/cpu node with reg {0} and an interrupt controller")]
    FdtHart(usize),
}
