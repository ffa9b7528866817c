//! The sizes that a disk's driver had better keep to.

/// What there is to say about a disk's blocks: bytes, powers of two.
#[derive(Debug, Clone, Copy)]
pub(in crate::block) struct Geometry {
    /// The logical block size that the driver sees.
    pub(in crate::block) logical: u32,
    /// The unit that the file is read and written in: the capacity is a multiple of it. Shorter
    /// requests take a detour by a buffer.
    pub(in crate::block) unit: u32,
    /// The smallest unit that the host writes without reading first.
    pub(super) physical: u32,
    /// A multiple of this is best for random I/O.
    pub(super) minimum: u32,
    /// A multiple of this is best for streams; 0 where the host has no wish.
    pub(super) optimal: u32,
    /// The unit in which space can be given back.
    pub(super) discard: u32,
    /// Whether space can be given back at all.
    pub(in crate::block) discards: bool,
}

impl Geometry {
    /// What the capacity is a multiple of: bytes.
    pub(in crate::block) fn whole(&self) -> u64 {
        self.logical.max(self.unit).into()
    }

    /// § 5.2.4: log2 of the logical blocks in a physical one.
    pub(in crate::block) fn physical_exponent(&self) -> u8 {
        let exponent = self.physical.max(self.logical) / self.logical;
        u8::try_from(exponent.ilog2()).unwrap_or(0)
    }

    /// In logical blocks.
    pub(in crate::block) fn minimum_io(&self) -> u16 {
        u16::try_from(self.minimum / self.logical).unwrap_or(0)
    }

    /// In logical blocks.
    pub(in crate::block) fn optimal_io(&self) -> u32 {
        self.optimal / self.logical
    }

    /// In sectors.
    pub(in crate::block) fn discard_alignment(&self) -> u32 {
        self.discard.max(self.logical) / 512
    }

    /// An image of clusters of so many bytes: what is given back or written anew are whole ones.
    #[cfg(feature = "qcow2")]
    pub(super) fn of_clusters(cluster: u32) -> Geometry {
        Geometry {
            logical: 512,
            unit: 512,
            physical: 4096,
            minimum: 4096,
            optimal: cluster,
            discard: cluster,
            discards: true,
        }
    }
}
