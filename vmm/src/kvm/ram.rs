//! Guest RAM, as this process maps it and KVM shows it to the guest.

#![allow(unsafe_code)]

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::failed;
use crate::error::Error;
use crate::{layout, size};

/// Guest RAM: zeroed pages that the host provides as the guest touches them.
pub(super) fn map(vm: &VmFd, size: u64) -> Result<GuestMemoryMmap, Error> {
    let start = GuestAddress(layout::RAM_BASE);
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    let ram = GuestMemoryMmap::from_ranges(&[(start, len)]).map_err(|error| Error::Host {
        what: format!("map {} of guest memory", size::show(size)),
        source: io::Error::other(error),
    })?;
    for (slot, region) in (0..).zip(ram.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a mapping that `ram` owns, and the caller keeps it until the VM is gone.
        unsafe { vm.set_user_memory_region(region) }.map_err(failed("set the guest's memory"))?;
    }
    Ok(ram)
}
