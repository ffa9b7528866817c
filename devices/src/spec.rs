//! Constants of the specification (virtio 1.3) that more than one module uses.

/// Device types (§ 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceId {
    /// A network card (§ 5.1).
    Network = 1,
    /// A block device (§ 5.2).
    Block = 2,
    /// A console (§ 5.3).
    Console = 3,
    /// An entropy device (§ 5.4).
    Entropy = 4,
    /// A memory balloon (§ 5.5).
    Balloon = 5,
    /// An input device (§ 5.8).
    Input = 18,
    /// A socket device (§ 5.10).
    Socket = 19,
    /// A file system (§ 5.11).
    FileSystem = 26,
}

/// Device status bits (§ 2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready: the device is live.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device met an error from which it cannot recover.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u8 = 128;
}

/// Feature bits of the rings and the transport, as masks (§ 6).
pub mod features {
    /// A descriptor may refer to a table of descriptors (§ 2.7.5.3).
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Each side may name the index at which it wants to be notified (§ 2.7.7, § 2.7.10).
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// The device follows the specification from 1.0 on.
    pub const VERSION_1: u64 = 1 << 32;
    /// One queue can be reset while the others run (§ 2.6.1).
    pub const RING_RESET: u64 = 1 << 40;
}

/// InterruptStatus: the device has used a buffer (§ 4.2.2).
pub const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the device's configuration or status has changed.
pub const INTERRUPT_CONFIG: u32 = 2;
