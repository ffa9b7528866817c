//! Guest memory with one queue. Its driver always offers the same chain.

use std::sync::Arc;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) const RAM: GuestAddress = GuestAddress(0x8000_0000);
const RAM_LEN: usize = 1 << 20;
pub(crate) const TABLE: u64 = 0x8000_1000;
pub(crate) const DRIVER: u64 = 0x8000_3000;
pub(crate) const DEVICE: u64 = 0x8000_5000;
/// Guest physical address of the indirect table.
const INDIRECT_TABLE: u64 = 0x8000_8000;
const DATA: u64 = 0x8001_0000;

/// Descriptors of the ring, and chains offered at a time.
pub(crate) const SIZE: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The layout of a chain.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// The number of buffers, of 512 bytes each. The second half is writable.
    pub(crate) buffers: u16,
    pub(crate) indirect: bool,
}

/// 1, 2, 4 and 16 descriptors, in the ring and in an indirect table.
pub(crate) const SHAPES: [Shape; 8] = {
    const fn shape(buffers: u16, indirect: bool) -> Shape {
        Shape { buffers, indirect }
    }
    [
        shape(1, false),
        shape(2, false),
        shape(4, false),
        shape(16, false),
        shape(1, true),
        shape(2, true),
        shape(4, true),
        shape(16, true),
    ]
};

impl Shape {
    pub(crate) fn name(self, whose: &str) -> String {
        let kind = if self.indirect { "indirect" } else { "direct" };
        format!("queue, {} {kind}: {whose}", self.buffers)
    }
}

/// Memory in which every entry of the available ring is the chain at 0. No chain is available yet.
pub(crate) fn memory(shape: Shape) -> Arc<GuestMemoryMmap> {
    let ram = GuestMemoryMmap::from_ranges(&[(RAM, RAM_LEN)]).unwrap();
    let table = if shape.indirect {
        INDIRECT_TABLE
    } else {
        TABLE
    };
    for index in 0..shape.buffers {
        let last = index + 1 == shape.buffers;
        let flags =
            if last { 0 } else { NEXT } | if index >= shape.buffers / 2 { WRITE } else { 0 };
        let next = if last { 0 } else { index + 1 };
        descriptor(
            &ram,
            table,
            index,
            DATA + 512 * u64::from(index),
            512,
            flags,
            next,
        );
    }
    if shape.indirect {
        descriptor(
            &ram,
            TABLE,
            0,
            INDIRECT_TABLE,
            16 * u32::from(shape.buffers),
            INDIRECT,
            0,
        );
    }
    Arc::new(ram)
}

fn descriptor(
    ram: &GuestMemoryMmap,
    table: u64,
    index: u16,
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
) {
    let place = GuestAddress(table).unchecked_add(16 * u64::from(index));
    let words = [
        address,
        u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48,
    ];
    ram.write_slice(words.map(u64::to_le_bytes).as_flattened(), place)
        .unwrap();
}

/// Fills the ring again. `index` is the current available index.
pub(crate) fn offer(ram: &GuestMemoryMmap, index: &mut u16) {
    *index = index.wrapping_add(SIZE);
    ram.store(
        *index,
        GuestAddress(DRIVER + 2),
        std::sync::atomic::Ordering::Release,
    )
    .unwrap();
}
