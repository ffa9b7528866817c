//! A hand-driven ring for unit tests: guest memory with one queue's areas, and an interrupt wire
//! whose level can be read.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::irq::IrqLine;
use crate::memory::Memory;
use crate::transport::interrupt::Interrupt;
use crate::virtio::QueueError;
use crate::virtio::queue::{Queue, QueueConfig};

#[path = "../tests/support/wire.rs"]
mod wire;
pub(crate) use wire::Wire;

pub(crate) const RAM: u64 = 0x8000_0000;
pub(crate) const RAM_LEN: u64 = 0x10_0000;
pub(crate) const TABLE: u64 = RAM + 0x1000;
pub(crate) const DRIVER: u64 = RAM + 0x3000;
pub(crate) const DEVICE: u64 = RAM + 0x5000;
pub(crate) const DATA: u64 = RAM + 0x10000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) struct Rig {
    pub(crate) ram: Arc<GuestMemoryMmap>,
    pub(crate) memory: Memory,
    pub(crate) wire: Wire,
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) config: QueueConfig,
}

impl Rig {
    pub(crate) fn new(size: u16) -> Rig {
        let len = usize::try_from(RAM_LEN).unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), len)]).unwrap();
        let ram = Arc::new(ram);
        let wire = Wire::default();
        let mut config = QueueConfig::new(size);
        config.descriptors = TABLE;
        config.driver = DRIVER;
        config.device = DEVICE;
        config.ready = true;
        Rig {
            memory: Memory::new(Arc::clone(&ram)),
            ram,
            interrupt: Arc::new(Interrupt::new(Box::new(wire.clone()))),
            wire,
            config,
        }
    }

    pub(crate) fn try_queue(&self, features: u64) -> Result<Queue, QueueError> {
        let interrupt = Arc::clone(&self.interrupt);
        self.config.activate(&self.memory, features, interrupt)
    }

    pub(crate) fn queue(&self, features: u64) -> Queue {
        self.try_queue(features).unwrap()
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.ram.read_slice(&mut bytes, GuestAddress(address));
        read.unwrap();
        bytes
    }

    pub(crate) fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    pub(crate) fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address, 4).try_into().unwrap())
    }

    /// Writes descriptor `index` of the table at `table`.
    pub(crate) fn descriptor_at(
        &self,
        table: u64,
        index: u16,
        (address, len): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    pub(crate) fn descriptor(&self, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        self.descriptor_at(TABLE, index, buffer, flags, next);
    }

    /// Writes a chain of buffers to consecutive descriptors from `first` on.
    pub(crate) fn chain(&self, first: u16, buffers: &[(u64, u32, u16)]) {
        for (index, &(address, len, flags)) in (first..).zip(buffers) {
            let last = usize::from(index - first) + 1 == buffers.len();
            let link = if last { 0 } else { NEXT };
            self.descriptor(index, (address, len), flags | link, index + 1);
        }
    }

    /// Makes `head` available as the next entry.
    pub(crate) fn offer(&self, head: u16) {
        let idx = self.u16(DRIVER + 2);
        let slot = u64::from(idx % self.config.size);
        self.write(DRIVER + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available(idx.wrapping_add(1));
    }

    pub(crate) fn set_available(&self, idx: u16) {
        self.write(DRIVER + 2, &idx.to_le_bytes());
    }

    pub(crate) fn set_driver_flags(&self, flags: u16) {
        self.write(DRIVER, &flags.to_le_bytes());
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        let size = u64::from(self.config.size);
        self.write(DRIVER + 4 + 2 * size, &event.to_le_bytes());
    }

    pub(crate) fn avail_event(&self) -> u16 {
        self.u16(DEVICE + 4 + 8 * u64::from(self.config.size))
    }

    pub(crate) fn device_flags(&self) -> u16 {
        self.u16(DEVICE)
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.u16(DEVICE + 2)
    }

    /// Used element `index`: head, written bytes.
    pub(crate) fn used(&self, index: u16) -> (u32, u32) {
        let element = DEVICE + 4 + 8 * u64::from(index % self.config.size);
        (self.u32(element), self.u32(element + 4))
    }
}
