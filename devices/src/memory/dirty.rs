//! The pages of guest RAM that devices wrote, for code that copies a running guest (snapshot,
//! migration). KVM reports the pages that vCPUs wrote (KVM_GET_DIRTY_LOG).

use std::num::NonZeroUsize;

use vm_memory::bitmap::AtomicBitmap;

use super::Region;

/// One bitmap per region, with one bit per page.
#[derive(Debug)]
pub(super) struct DirtyLog(Vec<AtomicBitmap>);

/// The pages of one region that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    /// The guest address of the region's first byte.
    pub start: u64,
    /// One bit per page, in the format of KVM_GET_DIRTY_LOG: the lowest bit of the first word is
    /// the region's first page.
    pub pages: Vec<u64>,
}

impl DirtyLog {
    pub(super) fn new(regions: &[Region], page: NonZeroUsize) -> DirtyLog {
        // A region is mapped, so its length fits.
        let len = |region: &Region| usize::try_from(region.len).unwrap_or(usize::MAX);
        let bitmaps = regions
            .iter()
            .map(|region| AtomicBitmap::new(len(region), page));
        DirtyLog(bitmaps.collect())
    }

    /// Marks the pages of `len` bytes at host address `host`, which lie within one of `regions`.
    #[cold]
    pub(super) fn mark(&self, regions: &[Region], host: *const u8, len: usize) {
        for (region, bitmap) in regions.iter().zip(&self.0) {
            let offset = host.addr().wrapping_sub(region.host.as_ptr().addr());
            if (offset as u64) < region.len {
                bitmap.set_addr_range(offset, len);
                return;
            }
        }
    }

    pub(super) fn take(&self, regions: &[Region]) -> Vec<DirtyPages> {
        let both = regions.iter().zip(&self.0);
        let written = both.map(|(region, bitmap)| DirtyPages {
            start: region.start,
            pages: bitmap.get_and_reset(),
        });
        written.collect()
    }
}
