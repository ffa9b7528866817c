//! The block device (§ 5.2), backed by a file or a block device of the host.
//!
//! ```text
//!   block.rs    features and queues        request.rs  one request: check, execute, answer
//!   config.rs   configuration space        image.rs    storage formats: raw.rs, qcow2.rs
//! ```

mod config;
mod image;
mod request;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use self::config::Config;
#[cfg(feature = "qcow2")]
pub use self::image::{Backing, Layer};
pub use self::image::{Image, granularity};
use self::request::Disk;
use crate::memory::Memory;
use crate::observe::DeviceObserver;
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice};

/// The unit of sector numbers (§ 5.2.4), in bytes.
pub const SECTOR: u64 = 512;

/// The longest serial number (§ 5.2.6), in bytes.
pub const SERIAL_MAX: usize = 20;

/// The most queues of a disk.
pub const QUEUES_MAX: u16 = 16;

/// Descriptors per queue.
pub const QUEUE_SIZE: u16 = 256;

/// Feature bits (§ 5.2.3).
mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// A disk. One thread serves all its queues. Several queues spare the guest's vCPUs a lock; they do
/// not spread the host's work.
pub struct Block {
    disk: Disk,
    queues: Vec<u16>,
}

/// How a disk is shown to its driver.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The driver may not write.
    pub readonly: bool,
    /// The answer to GET_ID. Only the first 20 bytes are used.
    pub serial: &'a str,
    /// Every write is durable when it completes, unless the driver turns the cache on (§ 5.2.6.2).
    pub write_through: bool,
    /// The number of queues: 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// The logical block size in bytes: a power of two, at least 512.
    pub block_size: u32,
    /// The name in log messages.
    pub name: &'a str,
    /// Whether a host error was reported. A reboot makes a new device for the same disk; both share
    /// this flag.
    pub reported: Arc<AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            readonly: false,
            serial: "",
            write_through: false,
            queues: 1,
            block_size: 512,
            name: "disk",
            reported: Arc::default(),
        }
    }
}

impl Block {
    /// A disk of `size` bytes, rounded down to whole blocks, in the raw image `file`. It has one
    /// queue, and a write is durable after the next FLUSH.
    pub fn new(file: File, size: u64, readonly: bool, serial: &str) -> Block {
        let options = Options { readonly, serial, ..Options::default() };
        Block::with(file, size, &options)
    }

    /// Like [`new`](Self::new), with `options`.
    ///
    /// A file opened with O_DIRECT is read and written directly, through a bounce buffer if the
    /// driver's buffers are not aligned.
    pub fn with(file: File, size: u64, options: &Options<'_>) -> Block {
        Block::of(Image::raw(file), size, options)
    }

    /// Like [`with`](Self::with), in `image`.
    pub fn of(image: Image, size: u64, options: &Options<'_>) -> Block {
        let mut serial = [0; SERIAL_MAX];
        for (to, from) in serial.iter_mut().zip(options.serial.bytes()) {
            *to = from;
        }
        let queues = options.queues.clamp(1, QUEUES_MAX);
        let mut geometry = image.geometry();
        if options.block_size.is_power_of_two() && options.block_size >= 512 {
            geometry.logical = options.block_size;
        }
        let config = Config::new(size, geometry, queues, !options.write_through);
        Block {
            disk: Disk {
                image,
                config: Arc::new(config),
                features: 0,
                readonly: options.readonly,
                serial,
                name: options.name.to_owned(),
                reported: Arc::clone(&options.reported),
                observer: None,
            },
            queues: vec![QUEUE_SIZE; queues.into()],
        }
    }

    /// The configuration space, through which the disk can be resized while it runs.
    pub fn shared_config(&self) -> Arc<Config> {
        Arc::clone(&self.disk.config)
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        use feature::{
            BLK_SIZE, CONFIG_WCE, DISCARD, FLUSH, MQ, RO, SEG_MAX, SIZE_MAX, TOPOLOGY, WRITE_ZEROES,
        };
        let when = |condition, bits| if condition { bits } else { 0 };
        let (readonly, discards) = (self.disk.readonly, self.disk.config.geometry().discards);
        SIZE_MAX
            | SEG_MAX
            | BLK_SIZE
            | FLUSH
            | TOPOLOGY
            | CONFIG_WCE
            | when(self.queues.len() > 1, MQ)
            | when(readonly, RO)
            | when(!readonly, WRITE_ZEROES)
            // DISCARD is a hint. It is not offered if the host ignores it.
            | when(!readonly && discards, DISCARD)
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.shared_config()
    }

    fn activate(&mut self, features: u64, _memory: &Memory) {
        self.disk.features = features;
        self.disk.config.negotiated(features);
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let disk = &mut self.disk;
        match queues.get(index) {
            Some(queue) => queue.drain(|chain| Some(disk.serve(chain))),
            None => Ok(()),
        }
    }

    fn reset(&mut self) {
        self.disk.features = 0;
        self.disk.config.reset();
    }

    fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        self.disk.observer = Some(Arc::clone(observer));
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
