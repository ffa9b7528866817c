//! How a driver reaches a device: registers on a bus, or messages from another process.

mod backend;
pub mod interrupt;
pub mod mmio;
pub mod registers;
pub mod remote;
pub mod vhost_user;
