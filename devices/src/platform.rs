//! The board's devices that are not virtio, and the bus that all devices are on.

pub mod bus;
pub mod finisher;
pub mod plic;
pub mod pvpanic;
pub mod rtc;
pub mod uart;
