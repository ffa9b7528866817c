//! The constants of every virtio device (virtio 1.3 § 2.1, § 2.2, § 5, § 6).

/// Bits of the device status field (§2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up; the device may work on its queues.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device has an error that only a reset clears.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u32 = 128;
}

/// Feature bits of all devices (§6).
pub mod feature {
    /// Descriptors may refer to tables of descriptors (§2.7.5.3).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event` instead of flags (§2.7.7, §2.7.10).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// A single queue can be reset (§2.6.1).
    pub const RING_RESET: u64 = 1 << 40;
}

/// Device ids (§5).
pub mod device {
    /// No device: the register block is an empty slot.
    pub const NONE: u32 = 0;
    /// Network device (§5.1).
    pub const NETWORK: u32 = 1;
    /// Block device (§5.2).
    pub const BLOCK: u32 = 2;
    /// Console (§5.3).
    pub const CONSOLE: u32 = 3;
    /// Entropy device (§5.4).
    pub const ENTROPY: u32 = 4;
    /// Memory balloon (§5.5).
    pub const BALLOON: u32 = 5;
    /// Socket device (§5.10).
    pub const SOCKET: u32 = 19;
}
