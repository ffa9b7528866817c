//! The memory regions that the front end shares, by guest address and by the front end's address.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user as protocol;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::refused;
use crate::memory::Memory;

/// The most regions of a front end: the number of descriptors that fit into one message.
pub(super) const REGIONS_MAX: usize = 32;

/// A front end's memory table.
#[derive(Default)]
pub(super) struct Table {
    /// Sorted by guest address.
    regions: Vec<Region>,
}

struct Region {
    /// The address in the front end's address space.
    user: u64,
    mapping: Arc<GuestRegionMmap>,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Maps and adds a region, which must not overlap another.
    pub(super) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: File,
    ) -> protocol::Result<()> {
        let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let offset = region.mmap_offset;
        if self.regions.len() >= REGIONS_MAX {
            return Err(refused(format_args!("more than {REGIONS_MAX} regions")));
        }
        // An access past the end of the file would raise SIGBUS.
        let metadata = file.metadata().map_err(refused)?;
        let end = offset.checked_add(size);
        if !metadata.is_file() || end.is_none_or(|end| end > metadata.len()) {
            let have = metadata.len();
            return Err(refused(format_args!(
                "a region of {size:#x} bytes from {offset:#x} on in a file of {have:#x}"
            )));
        }
        let clash = self.regions.iter().any(|other| {
            let len = other.mapping.len();
            overlap(guest, size, other.mapping.start_addr().0, len)
                || overlap(user, size, other.user, len)
        });
        if clash {
            return Err(refused(format_args!(
                "regions overlap at {guest:#x} or {user:#x}"
            )));
        }
        let mapping = region.mmap_region(file)?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest));
        let mapping = Arc::new(mapping.ok_or_else(|| refused("a region that wraps"))?);
        self.regions.push(Region { user, mapping });
        self.regions
            .sort_by_key(|region| region.mapping.start_addr());
        Ok(())
    }

    /// Removes a region, which must exist.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> protocol::Result<()> {
        let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let index = self.regions.iter().position(|other| {
            (
                other.mapping.start_addr().0,
                other.user,
                other.mapping.len(),
            ) == (guest, user, size)
        });
        let index = index.ok_or_else(|| refused(format_args!("no region at {guest:#x}")))?;
        self.regions.remove(index);
        Ok(())
    }

    /// All regions as guest memory.
    pub(super) fn memory(&self) -> protocol::Result<Memory> {
        let mappings = self.regions.iter().map(|it| Arc::clone(&it.mapping));
        let ram = GuestMemoryMmap::from_arc_regions(mappings.collect()).map_err(refused)?;
        Ok(Memory::new(Arc::new(ram)))
    }

    /// Translates `user`, an address of the front end, to a guest address.
    pub(super) fn guest_address(&self, user: u64) -> protocol::Result<u64> {
        let found = self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            let inside = offset < region.mapping.len();
            inside.then(|| region.mapping.start_addr().0 + offset)
        });
        found.ok_or_else(|| refused(format_args!("a ring at {user:#x}, which is in no region")))
    }
}

fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    // The vhost crate has checked that no region wraps.
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}
