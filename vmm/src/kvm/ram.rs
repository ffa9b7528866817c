//! Guest RAM: mapped into this process, registered with KVM.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use kvm_bindings::{KVM_CAP_VM_GPA_BITS, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use libc::{
    MAP_ANONYMOUS, MAP_HUGE_2MB, MAP_HUGETLB, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED,
};
use log::info;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use super::error::KvmError;
use crate::config::ConfigError;
use crate::config::{HugePages, Memory};
use crate::error::Error;
use crate::host::hugepages;
use crate::layout::RAM_BASE;
use crate::size;

/// Maps guest RAM for `vm`: zeroed pages, allocated as the guest touches them or at once. [`show`]
/// registers them with KVM.
///
/// # Errors
/// The host has too little memory, or its KVM cannot address so much.
pub(crate) fn map(vm: &VmFd, option: &Memory) -> Result<GuestMemoryMmap, Error> {
    check_address_bits(vm, option.size)?;
    let wanted = match option.hugepages {
        HugePages::Off => map_pages(option, false),
        // The usual reason is that too few are free.
        HugePages::On => map_pages(option, true)
            .map_err(|error| hugepages::check(option.size).err().unwrap_or(error)),
        HugePages::Auto => map_pages(option, true).or_else(|error| {
            info!("ordinary pages instead of huge pages: {}", error.chain());
            map_pages(option, false)
        }),
    };
    let region = wanted.and_then(|mapping| {
        let region = GuestRegionMmap::new(mapping, GuestAddress(RAM_BASE));
        region.ok_or(Error::Internal("RAM ends beyond 2^64".to_owned()))
    })?;
    GuestMemoryMmap::from_regions(vec![region]).map_err(|error| Error::Internal(error.to_string()))
}

/// Registers `ram` as the guest's memory, from memory slot 0 on. The caller keeps `ram` until the
/// VM is closed.
///
/// # Errors
/// KVM refuses it.
pub(crate) fn show(vm: &VmFd, ram: &GuestMemoryMmap) -> Result<(), Error> {
    for (slot, region) in (0..).zip(ram.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: `ram` owns the mapping, and the caller keeps it until the VM is closed.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(KvmError::call("set the guest's memory"))?;
    }
    Ok(())
}

/// Checks that RAM of `size` bytes lies below the limit of guest physical addresses: 41, 50 or 59
/// bits, by the G-stage's paging mode.
fn check_address_bits(vm: &VmFd, size: u64) -> Result<(), Error> {
    let bits = vm.check_extension_raw(KVM_CAP_VM_GPA_BITS.into());
    let end = u32::try_from(bits)
        .ok()
        .and_then(|bits| 1_u64.checked_shl(bits));
    match end {
        Some(end) if end > RAM_BASE && RAM_BASE.saturating_add(size) > end => {
            Err(Error::from(ConfigError::Memory {
                given: size::show(size),
                problem: format!(
                    "at most {} can be addressed ({bits}-bit guest physical addresses on this host)",
                    size::show(end - RAM_BASE)
                ),
            }))
        }
        _ => Ok(()),
    }
}

fn map_pages(option: &Memory, huge: bool) -> Result<MmapRegion, Error> {
    let refused = |source: io::Error| {
        Error::host(format!("map {} of guest memory", size::show(option.size)))(source)
    };
    let len =
        usize::try_from(option.size).map_err(|_| refused(io::ErrorKind::OutOfMemory.into()))?;
    // Huge pages are reserved at once. Otherwise a missing page would cause a SIGBUS later.
    let mut flags = match huge {
        true => MAP_HUGETLB | MAP_HUGE_2MB,
        false => MAP_NORESERVE,
    };
    if option.prealloc {
        flags |= MAP_POPULATE;
    }
    let builder = MmapRegionBuilder::new(len)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_hugetlbfs(huge);
    let mapping = if option.shared {
        let file = shared_file(option.size, huge).map_err(refused)?;
        // The memfd was created with huge pages.
        let flags = flags & !(MAP_HUGETLB | MAP_HUGE_2MB) | MAP_SHARED;
        builder
            .with_file_offset(FileOffset::new(file, 0))
            .with_mmap_flags(flags)
            .build()
    } else {
        builder
            .with_mmap_flags(flags | MAP_PRIVATE | MAP_ANONYMOUS)
            .build()
    };
    let mapping = mapping.map_err(|error| refused(io::Error::other(error)))?;
    if !huge {
        advise_huge(&mapping);
    }
    Ok(mapping)
}

/// Advises transparent huge pages: the guest takes fewer faults. A refusal is ignored.
fn advise_huge(mapping: &MmapRegion) {
    let (start, len) = (mapping.as_ptr().cast(), mapping.size());
    // SAFETY: the range is our mapping, and the advice does not change its contents.
    unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
}

fn shared_file(size: u64, huge: bool) -> io::Result<File> {
    let flags = match huge {
        true => MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        false => MemfdFlags::CLOEXEC,
    };
    let file = File::from(memfd_create("guest-ram", flags)?);
    file.set_len(size)?;
    Ok(file)
}
