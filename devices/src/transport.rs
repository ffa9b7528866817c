//! What carries a device to its driver: registers of a bus, or messages of another process.

pub mod interrupt;
pub mod mmio;
pub mod registers;
pub mod vhost_user;
