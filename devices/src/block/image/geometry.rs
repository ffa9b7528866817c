//! A disk's block sizes, which its driver uses to align I/O.

/// A disk's block sizes: bytes, powers of two.
#[derive(Debug, Clone, Copy)]
pub(in crate::block) struct Geometry {
    /// The logical block size that the driver sees.
    pub(in crate::block) logical: u32,
    /// The unit in which the file is read and written: the capacity is a multiple of it. Shorter
    /// requests go through a bounce buffer.
    pub(in crate::block) unit: u32,
    /// The smallest unit that the host writes without a read-modify-write.
    pub(super) physical: u32,
    /// The preferred unit of random I/O.
    pub(super) minimum: u32,
    /// The preferred unit of sequential I/O; 0 if the host reports none.
    pub(super) optimal: u32,
    /// The unit of discards.
    pub(super) discard: u32,
    /// Whether the host supports discards.
    pub(in crate::block) discards: bool,
}

impl Geometry {
    /// The unit of the capacity, in bytes.
    pub(in crate::block) fn whole(&self) -> u64 {
        self.logical.max(self.unit).into()
    }

    /// § 5.2.4: log2 of the logical blocks per physical block.
    pub(in crate::block) fn physical_exponent(&self) -> u8 {
        let exponent = self.physical.max(self.logical) / self.logical;
        u8::try_from(exponent.ilog2()).unwrap_or(0)
    }

    /// The preferred unit of random I/O, in logical blocks.
    pub(in crate::block) fn minimum_io(&self) -> u16 {
        u16::try_from(self.minimum / self.logical).unwrap_or(0)
    }

    /// The preferred unit of sequential I/O, in logical blocks.
    pub(in crate::block) fn optimal_io(&self) -> u32 {
        self.optimal / self.logical
    }

    /// The alignment of discards, in sectors.
    pub(in crate::block) fn discard_alignment(&self) -> u32 {
        self.discard.max(self.logical) / 512
    }

    /// The geometry of an image with clusters of `cluster` bytes, which are discarded and allocated
    /// as a whole.
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
