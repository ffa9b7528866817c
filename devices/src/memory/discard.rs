//! Memory that goes back to the host, for the balloon.

use log::debug;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::Memory;

/// Bytes of a huge page (hugetlbfs).
const HUGE_PAGE: usize = 2 << 20;

impl Memory {
    /// Gives `len` bytes at guest address `address` back to the host, as far as they are whole
    /// pages of it. These read as zeroes until they are written again. Returns their number in
    /// bytes: 0 if the range is not all RAM.
    pub(crate) fn discard(&self, address: u64, len: u64) -> u64 {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let host = self.translate(address, len as u64);
        host.map_or(0, |host| self.discard_at(host.as_ptr(), len))
    }

    /// As [`discard`](Self::discard), for a range at host address `host`, which `translate`
    /// returned.
    pub(super) fn discard_at(&self, host: *mut u8, len: usize) -> u64 {
        let holds = |region: &&GuestRegionMmap| {
            let offset = host.addr().wrapping_sub(region.as_ptr().addr());
            (offset as u64) < region.len()
        };
        let Some(region) = self.0.ram.iter().find(holds) else {
            return 0;
        };
        let page = match region.is_hugetlbfs() {
            Some(true) => HUGE_PAGE,
            _ => rustix::param::page_size(),
        };
        let skipped = host.addr().next_multiple_of(page) - host.addr();
        let whole = len.saturating_sub(skipped);
        let whole = whole - whole % page;
        if whole == 0 {
            return 0;
        }
        // The pages of a file stay allocated until they are removed from it.
        let advice = match region.flags() & libc::MAP_SHARED {
            0 => libc::MADV_DONTNEED,
            _ => libc::MADV_REMOVE,
        };
        // SAFETY: both lie within the mapping, since `whole` is not 0.
        let first = unsafe { host.add(skipped) };
        // SAFETY: the range lies within RAM, which `self` keeps mapped. All accesses to RAM are
        // volatile, atomic or by the kernel, so it may change at any time, also to zeroes.
        if unsafe { libc::madvise(first.cast(), whole, advice) } != 0 {
            // It stays as it is, which does no harm.
            debug!("balloon: {}", std::io::Error::last_os_error());
            return 0;
        }
        self.mark_dirty(first, whole);
        whole as u64
    }
}
