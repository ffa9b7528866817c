//! How a driver reaches a device: registers on a bus, or messages from another process.

pub mod interrupt;
pub mod mmio;
pub mod registers;
pub mod vhost_user;
