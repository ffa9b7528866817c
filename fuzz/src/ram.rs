//! Two copies of guest memory: the device's, and the expected one.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use devices::memory::Memory;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::file::new_file;

/// Where RAM begins.
pub const BASE: u64 = 0x8000_0000;
/// Its size in bytes: small, since all of it is compared often.
pub const LEN: u64 = 0x2_0000;
/// A second region, after a hole.
pub const ISLAND: u64 = 0x8003_0000;
/// Its size in bytes.
pub const ISLAND_LEN: u64 = 0x1000;

/// A file, since front ends share memory as files: RAM, followed by the island.
static FILE: LazyLock<Arc<File>> =
    LazyLock::new(|| Arc::new(new_file(&[0; (LEN + ISLAND_LEN) as usize])));

/// Mapped once: a mapping for each case would cost more than the case.
static MAPPING: LazyLock<Arc<GuestMemoryMmap>> = LazyLock::new(|| {
    let regions = [(BASE, LEN, 0), (ISLAND, ISLAND_LEN, LEN)].map(|(at, len, offset)| {
        let file = FileOffset::from_arc(Arc::clone(&FILE), offset);
        (GuestAddress(at), len as usize, Some(file))
    });
    Arc::new(GuestMemoryMmap::from_ranges_with_files(regions).expect("132 KiB"))
});

/// The file of RAM: at offset 0, and the island at [`LEN`].
pub fn file() -> &'static File {
    &FILE
}

/// The RAM of a guest, and an image of its expected content. Only one may be in use at a time.
pub struct Ram {
    image: Vec<u8>,
    found: Vec<u8>,
}

impl Ram {
    /// All zeroes.
    pub fn new() -> Ram {
        let image = vec![0; (LEN + ISLAND_LEN) as usize];
        let (main, island) = image.split_at(LEN as usize);
        for (part, at) in [(main, BASE), (island, ISLAND)] {
            MAPPING.write_slice(part, GuestAddress(at)).expect("RAM");
        }
        Ram { found: image.clone(), image }
    }

    /// The memory that a device gets.
    pub fn memory(&self) -> Memory {
        Memory::new(Arc::clone(&MAPPING))
    }

    /// A write of the guest, to both. Writes outside RAM are dropped.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        if self.put(address, bytes) {
            MAPPING
                .write_slice(bytes, GuestAddress(address))
                .expect("RAM");
        }
    }

    /// A write of a device's model, to the image only. Returns false, and writes nothing, if it is
    /// not all RAM.
    pub fn put(&mut self, address: u64, bytes: &[u8]) -> bool {
        match place(address, bytes.len() as u64) {
            Some(place) => self.image[place].copy_from_slice(bytes),
            None => return false,
        }
        true
    }

    /// The expected content at `address`, if that is RAM of one region.
    pub fn get(&self, address: u64, len: u64) -> Option<&[u8]> {
        place(address, len).map(|place| &self.image[place])
    }

    /// The same as a number of 16 bits.
    pub fn u16(&self, address: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.get(address, 2)?.try_into().ok()?))
    }

    /// The actual content at `address`.
    pub fn found(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        MAPPING
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("RAM");
        bytes
    }

    /// Accepts what the device wrote here, which the model cannot predict.
    pub fn accept(&mut self, address: u64, len: usize) {
        let bytes = self.found(address, len);
        self.put(address, &bytes);
    }

    /// Checks that both are equal: the device wrote what it had to, and nothing else.
    pub fn check(&mut self) {
        let (main, island) = self.found.split_at_mut(LEN as usize);
        for (part, at) in [(main, BASE), (island, ISLAND)] {
            MAPPING.read_slice(part, GuestAddress(at)).expect("RAM");
        }
        if self.found == self.image {
            return;
        }
        let differs = |(found, image): (&u8, &u8)| found != image;
        let at = self.found.iter().zip(&self.image).position(differs);
        let at = at.expect("they differ") as u64;
        let address = if at < LEN {
            BASE + at
        } else {
            ISLAND + at - LEN
        };
        let (found, image) = (self.found[at as usize], self.image[at as usize]);
        panic!("at {address:#x} there is {found:#x}, the model has {image:#x}");
    }
}

impl Default for Ram {
    fn default() -> Self {
        Ram::new()
    }
}

/// Whether these bytes lie in one region of RAM.
pub fn is_ram(address: u64, len: u64) -> bool {
    place(address, len).is_some()
}

/// The range of these bytes in the image.
fn place(address: u64, len: u64) -> Option<Range<usize>> {
    let regions = [(BASE, LEN, 0), (ISLAND, ISLAND_LEN, LEN)];
    regions.into_iter().find_map(|(at, size, shift)| {
        let offset = address.checked_sub(at).filter(|offset| *offset < size)?;
        let end = offset.checked_add(len).filter(|end| *end <= size)?;
        Some((shift + offset) as usize..(shift + end) as usize)
    })
}
