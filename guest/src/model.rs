//! For tests: guest memory, and a small model of the device side of virtio. It trusts the driver,
//! works sequentially, and misbehaves on request.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "registers have halves of 32 bits"
)]

mod device;
mod registers;

pub(crate) use device::Device;
pub(crate) use registers::{File, Ram};

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::vec::Vec;

use crate::dma::PAGE;
use crate::{Dma, Queue};

/// Bus address of the model's memory: not the pointer's value, as on a real bus.
pub(crate) const BUS: u64 = 0x8000_0000;
const LEN: usize = 1 << 20;
const LAYOUT: Layout = match Layout::from_size_align(LEN, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("the size of the model's memory"),
};

/// Memory that a driver and the model share.
pub(crate) struct Memory(NonNull<u8>);

impl Memory {
    pub(crate) fn new() -> Self {
        // SAFETY: the layout is not empty.
        Self(NonNull::new(unsafe { alloc_zeroed(LAYOUT) }).expect("1 MiB"))
    }

    /// The arena for a driver. Each test takes only one, and drops it before the memory.
    pub(crate) fn dma(&self) -> Dma {
        // SAFETY: freed after the driver is gone; the model accesses it by raw pointers only.
        unsafe { Dma::new(self.0, BUS, LEN) }
    }

    fn at(&self, address: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(address - BUS).unwrap();
        assert!(offset + len <= LEN, "{address:#x} + {len}");
        // SAFETY: inside the allocation.
        unsafe { self.0.as_ptr().add(offset) }
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        (address..)
            .take(len)
            .map(|address| self.byte(address).load(Ordering::Relaxed))
            .collect()
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            self.byte(address).store(*byte, Ordering::Relaxed);
        }
    }

    fn byte(&self, address: u64) -> &AtomicU8 {
        // SAFETY: in bounds by `at`, and lives as long as `self`.
        unsafe { AtomicU8::from_ptr(self.at(address, 1)) }
    }

    pub(crate) fn u16(&self, address: u64) -> u16 {
        // SAFETY: ring words are aligned; in bounds by `at`.
        unsafe { AtomicU16::from_ptr(self.at(address, 2).cast()) }.load(Ordering::SeqCst)
    }

    pub(crate) fn set_u16(&self, address: u64, value: u16) {
        // SAFETY: as above.
        unsafe { AtomicU16::from_ptr(self.at(address, 2).cast()) }.store(value, Ordering::SeqCst);
    }

    fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address, 4).try_into().unwrap())
    }

    fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address, 8).try_into().unwrap())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.0.as_ptr(), LAYOUT) };
    }
}

/// A descriptor as read by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A chain: its head and all segments, those of an indirect table included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) head: u16,
    pub(crate) segments: Vec<Descriptor>,
}

impl Chain {
    /// All bytes that the device may read.
    pub(crate) fn readable(&self, memory: &Memory) -> Vec<u8> {
        let readable = self
            .segments
            .iter()
            .filter(|segment| segment.flags & 2 == 0);
        readable
            .flat_map(|segment| memory.read(segment.address, segment.len as usize))
            .collect()
    }

    /// Bytes that the device may write.
    pub(crate) fn writable(&self) -> usize {
        let writable = self
            .segments
            .iter()
            .filter(|segment| segment.flags & 2 != 0);
        writable.map(|segment| segment.len as usize).sum()
    }

    /// Writes `bytes` at the front of the writable segments.
    pub(crate) fn fill(&self, memory: &Memory, mut bytes: &[u8]) {
        for segment in self
            .segments
            .iter()
            .filter(|segment| segment.flags & 2 != 0)
        {
            let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
            memory.write(segment.address, now);
            bytes = later;
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
    }
}

/// The device's side of one split virtqueue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    pub(crate) next_avail: u16,
    pub(crate) used: u16,
}

impl Ring {
    pub(crate) fn of(queue: &Queue) -> Self {
        Self {
            size: queue.size(),
            descriptors: queue.descriptor_area(),
            driver: queue.driver_area(),
            device: queue.device_area(),
            next_avail: 0,
            used: 0,
        }
    }

    pub(crate) fn descriptor(memory: &Memory, table: u64, index: u16) -> Descriptor {
        let at = table + 16 * u64::from(index);
        Descriptor {
            address: memory.u64(at),
            len: memory.u32(at + 8),
            flags: memory.u16(at + 12),
            next: memory.u16(at + 14),
        }
    }

    /// The next available chain.
    pub(crate) fn pop(&mut self, memory: &Memory) -> Option<Chain> {
        if memory.u16(self.driver + 2) == self.next_avail {
            return None;
        }
        let head = memory.u16(self.driver + 4 + 2 * u64::from(self.next_avail % self.size));
        self.next_avail = self.next_avail.wrapping_add(1);
        let mut segments = Vec::new();
        let mut at = head;
        loop {
            let descriptor = Self::descriptor(memory, self.descriptors, at);
            if descriptor.flags & 4 != 0 {
                let entries = u16::try_from(descriptor.len / 16).unwrap();
                let table =
                    (0..entries).map(|index| Self::descriptor(memory, descriptor.address, index));
                segments.extend(table);
            } else {
                segments.push(descriptor);
            }
            if descriptor.flags & 1 == 0 {
                return Some(Chain { head, segments });
            }
            at = descriptor.next;
        }
    }

    /// Writes a used entry, valid or not, and advances used.idx.
    pub(crate) fn push(&mut self, memory: &Memory, id: u32, len: u32) {
        let entry = self.device + 4 + 8 * u64::from(self.used % self.size);
        memory.write(entry, &id.to_le_bytes());
        memory.write(entry + 4, &len.to_le_bytes());
        self.used = self.used.wrapping_add(1);
        memory.set_u16(self.device + 2, self.used);
    }

    pub(crate) fn avail_flags(&self, memory: &Memory) -> u16 {
        memory.u16(self.driver)
    }

    pub(crate) fn used_event(&self, memory: &Memory) -> u16 {
        memory.u16(self.driver + 4 + 2 * u64::from(self.size))
    }

    pub(crate) fn set_used_flags(&self, memory: &Memory, flags: u16) {
        memory.set_u16(self.device, flags);
    }

    pub(crate) fn set_avail_event(&self, memory: &Memory, event: u16) {
        memory.set_u16(self.device + 4 + 8 * u64::from(self.size), event);
    }
}
