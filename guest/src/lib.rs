//! The guest side of Hartvisor: virtio drivers written from the specification, and the support code
//! that a bare-metal RISC-V program in S-mode needs.
//!
//! ```text
//!   block  console  net  vsock  a device's requests             ┐
//!      │      │      │     │                                    │ any machine:
//!   queue ── mmio           split virtqueue, virtio-mmio        │ unit tests run them
//!      │      │                                                 │ against the devices,
//!    dma   Registers  Wait  what the surroundings must provide  │ without a VM
//!   bare                    a virtqueue by hand, for tests      │
//!                                                               │
//!    fdt   plic  aplic  imsic   intc   tap                      ┘
//!
//!   boot  trap  sbi  irq  timer  hart  patch  fault               bare metal only
//! ```
//!
//! # The drivers in a test
//!
//! A driver needs registers ([`Registers`]), memory with a known bus address ([`Dma`]) and a way to
//! wait ([`Wait`], such as a closure):
//!
//! ```no_run
//! # use std::{ptr::NonNull, time::{Duration, Instant}};
//! # use guest::{Block, Dma, Registers, Transport, block};
//! # fn test(registers: impl Registers, memory: NonNull<u8>) -> Result<(), guest::Error> {
//! // SAFETY: the test's guest memory: 4 MiB at bus address 0x8000_0000, left alone by the test.
//! let mut dma = unsafe { Dma::new(memory, 0x8000_0000, 4 << 20) };
//! let transport = Transport::probe(registers)?.expect("a device");
//! let mut block = Block::new(transport, &mut dma, block::WANTED, 64)?;
//!
//! let end = Instant::now() + Duration::from_secs(5);
//! let mut wait = || { std::thread::yield_now(); Instant::now() < end };
//! block.write(0, &[0x5a; 512], &mut wait)?;
//! let mut back = [0; 512];
//! block.read(0, &mut back, &mut wait)?;
//! # Ok(())
//! # }
//! ```

#![no_std]

#[cfg(test)]
extern crate std;

pub mod aplic;
pub mod bare;
pub mod block;
pub mod console;
pub mod dma;
mod error;
pub mod fdt;
pub mod imsic;
pub mod intc;
pub mod latency;
pub mod mmio;
#[cfg(test)]
mod model;
pub mod net;
pub mod plic;
pub mod queue;
mod receive;
pub mod tap;
pub mod virtio;
pub mod vsock;
mod wait;

#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
mod events;
#[cfg(target_os = "none")]
pub mod fault;
#[cfg(target_os = "none")]
pub mod hart;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod patch;
#[cfg(target_os = "none")]
pub mod sbi;
#[cfg(target_os = "none")]
mod stack;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
mod trap;

pub use block::Block;
pub use console::Console;
pub use dma::{Dma, Region};
pub use error::Error;
pub use mmio::{MmioRegisters, Registers, Transport};
pub use net::Net;
pub use queue::{Head, Layout, Queue, Segment, Used};
pub use vsock::Vsock;
pub use wait::Wait;
