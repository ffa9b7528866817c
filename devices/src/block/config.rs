//! A disk's configuration space (§ 5.2.4).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::image::Geometry;
use super::{SECTOR, feature};
use crate::virtio::ConfigSpace;

/// The most data segments per request: the header and the status take one descriptor each.
const SEGMENTS_MAX: u32 = super::QUEUE_SIZE as u32 - 2;

/// The longest data segment, in bytes.
const SEGMENT_MAX: u32 = 1 << 20;

/// The most data per read or write, in bytes. A longer request is refused before any I/O.
///
/// A driver that respects SIZE_MAX and SEG_MAX (§ 5.2.4) sends at most this, 254 MiB. The limit
/// bounds the time of a request, and so of a reset: the descriptors of a chain may all name the
/// same memory, so the size of the guest's RAM is no bound. Linux sends up to a few MiB, in
/// segments of 1 MiB where its memory is contiguous. Firmware (U-Boot, EDK2) reads an extent of a
/// file with one request in one segment, and ignores SIZE_MAX.
pub(super) const REQUEST_MAX: u64 = SEGMENT_MAX as u64 * SEGMENTS_MAX as u64;

/// Offset of `writeback`, the only field that a driver may write.
const WRITEBACK: usize = 32;

/// The size limits of a DISCARD or WRITE_ZEROES request. If the host cannot zero a range, the
/// zeroes are written, so the limits bound the time of a request, and so of a reset.
pub(super) struct Limit {
    /// Sectors per segment.
    pub(super) sectors: u32,
    /// Segments per request.
    pub(super) segments: u32,
}

/// 1 GiB per segment: punching a hole only changes the file system's metadata.
pub(super) const DISCARD: Limit = Limit { sectors: 1 << 21, segments: 16 };

/// 32 MiB, in one segment as Linux sends it: the zeroes may have to be written.
pub(super) const WRITE_ZEROES: Limit = Limit { sectors: 1 << 16, segments: 1 };

/// A disk's configuration space. Any vCPU may read it at any time.
///
/// After a resize, call [`Mmio::config_changed`](crate::transport::mmio::Mmio::config_changed).
#[derive(Debug)]
pub struct Config {
    geometry: Geometry,
    queues: u16,
    /// Sectors of 512 bytes.
    capacity: AtomicU64,
    /// Writes may be kept in the host's cache until the next FLUSH.
    writeback: AtomicBool,
    /// The driver may change `writeback` (it accepted CONFIG_WCE).
    writable: AtomicBool,
    /// The value of `writeback` after a reset.
    initial: bool,
}

impl Config {
    pub(super) fn new(size: u64, geometry: Geometry, queues: u16, writeback: bool) -> Config {
        let config = Config {
            geometry,
            queues,
            capacity: AtomicU64::new(0),
            writeback: AtomicBool::new(writeback),
            writable: AtomicBool::new(false),
            initial: writeback,
        };
        config.resize(size);
        config
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The disk's size in sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::SeqCst)
    }

    /// Sets the size to `size` bytes, rounded down to whole blocks. Returns whether the capacity
    /// changed.
    pub fn resize(&self, size: u64) -> bool {
        let capacity = (size - size % self.geometry.whole()) / SECTOR;
        self.capacity.swap(capacity, Ordering::SeqCst) != capacity
    }

    pub(super) fn reset(&self) {
        self.writable.store(false, Ordering::SeqCst);
        self.writeback.store(self.initial, Ordering::SeqCst);
    }

    /// § 5.2.5.2: without FLUSH the disk starts in write-through mode, whatever else the driver
    /// accepted.
    pub(super) fn negotiated(&self, features: u64) {
        let flush = features & feature::FLUSH != 0;
        self.writeback
            .store(self.initial && flush, Ordering::SeqCst);
        let writable = features & feature::CONFIG_WCE != 0;
        self.writable.store(writable, Ordering::SeqCst);
    }

    /// Whether a write must be durable when it completes (§ 5.2.6.2).
    pub(super) fn is_write_through(&self) -> bool {
        !self.writeback.load(Ordering::SeqCst)
    }

    /// `struct virtio_blk_config`, field by field.
    fn bytes(&self) -> Vec<u8> {
        let geometry = &self.geometry;
        let mut bytes = self.capacity().to_le_bytes().to_vec();
        bytes.extend(SEGMENT_MAX.to_le_bytes());
        bytes.extend(SEGMENTS_MAX.to_le_bytes());
        bytes.extend([0; 4]); // cylinders, heads, sectors: not offered
        bytes.extend(geometry.logical.to_le_bytes());
        bytes.extend([geometry.physical_exponent(), 0]); // and alignment_offset
        bytes.extend(geometry.minimum_io().to_le_bytes());
        bytes.extend(geometry.optimal_io().to_le_bytes());
        bytes.extend([u8::from(!self.is_write_through()), 0]);
        bytes.extend(self.queues.to_le_bytes());
        bytes.extend(DISCARD.sectors.to_le_bytes());
        bytes.extend(DISCARD.segments.to_le_bytes());
        bytes.extend(geometry.discard_alignment().to_le_bytes());
        bytes.extend(WRITE_ZEROES.sectors.to_le_bytes());
        bytes.extend(WRITE_ZEROES.segments.to_le_bytes());
        bytes.extend([u8::from(geometry.discards), 0, 0, 0]); // write_zeroes_may_unmap
        bytes
    }
}

impl ConfigSpace for Config {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn read(&self, offset: usize, data: &mut [u8]) {
        self.bytes().read(offset, data);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        if let (WRITEBACK, [value]) = (offset, data)
            && self.writable.load(Ordering::SeqCst)
        {
            self.writeback.store(*value != 0, Ordering::SeqCst);
        }
    }
}
