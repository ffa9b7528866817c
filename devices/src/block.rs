//! The block device (§ 5.2) over a file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;

use crate::chain::Chain;
use crate::queue::Broken;
use crate::virtio::{ConfigSpace, DeviceId, Queues, VirtioDevice};

/// The unit of all addresses and lengths (§ 5.2.2): bytes.
pub const SECTOR: u64 = 512;

/// The longest serial number (§ 5.2.6): bytes.
pub const SERIAL_MAX: usize = 20;

const QUEUE_SIZE: u16 = 256;
/// A request's header and status take a descriptor each.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Feature bits (§ 5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
}

/// Request types (§ 5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
}

/// The last byte of every request (§ 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// A disk.
pub struct Block {
    disk: Disk,
    queues: [u16; 1],
}

struct Disk {
    file: File,
    /// Size in sectors.
    capacity: u64,
    readonly: bool,
    serial: [u8; SERIAL_MAX],
    /// The driver cannot flush, so every write is made durable before it completes (§ 5.2.6.2).
    write_through: bool,
    /// Whether a host error was reported: the first says it all, and a guest must not fill the log.
    reported: AtomicBool,
}

impl Block {
    /// A disk of `size` bytes, rounded down to whole sectors, kept in `file`. `serial` is what GET_ID answers: its first
    /// 20 bytes.
    pub fn new(file: File, size: u64, readonly: bool, serial: &str) -> Block {
        let mut id = [0; SERIAL_MAX];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Block {
            disk: Disk {
                file,
                capacity: size / SECTOR,
                readonly,
                serial: id,
                write_through: false,
                reported: AtomicBool::new(false),
            },
            queues: [QUEUE_SIZE],
        }
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
        let readonly = if self.disk.readonly { feature::RO } else { 0 };
        feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | readonly
    }

    /// § 5.2.4.
    fn config(&self) -> Arc<dyn ConfigSpace> {
        let mut config = Vec::new();
        config.extend(self.disk.capacity.to_le_bytes());
        config.extend([0; 4]); // size_max: not offered
        config.extend(SEGMENTS_MAX.to_le_bytes());
        config.extend([0; 4]); // geometry: not offered
        config.extend(512_u32.to_le_bytes()); // blk_size
        Arc::new(config)
    }

    fn activate(&mut self, features: u64) {
        self.disk.write_through = features & feature::FLUSH == 0;
    }

    fn kicked(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        let disk = &self.disk;
        match queues.get(index) {
            Some(queue) => queue.drain(|chain| Some(disk.serve(chain))),
            None => Ok(()),
        }
    }
}

impl Disk {
    /// One request, however it is cut into buffers: a 16-byte header at the front of what is readable, a status byte at
    /// the end of what is writable, data in between. Returns how many bytes were written.
    fn serve(&self, chain: &mut Chain) -> u32 {
        if !chain.writable().split_last() {
            // Nowhere to say what is wrong.
            return 0;
        }
        let (status, written) = match self.execute(chain) {
            Ok(written) => (Status::Ok, written),
            Err(Failure::Unsupported) => (Status::Unsupp, 0),
            Err(Failure::Refused) => (Status::IoErr, 0),
            Err(Failure::Host(error)) => {
                if !self.reported.swap(true, Ordering::Relaxed) {
                    warn!("disk: {error} (said once; the guest sees I/O errors)");
                }
                (Status::IoErr, 0)
            }
        };
        chain.writable().put_last(status as u8);
        // A chain has at most 2^32 bytes; the driver of that one learns a byte less.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    /// Carries the request out and returns the bytes of data written to the driver's buffers.
    fn execute(&self, chain: &mut Chain) -> Result<u64, Failure> {
        let header = chain.readable().take::<16>().ok_or(Failure::Refused)?;
        // le32 type, le32 reserved, le64 sector
        let header = u128::from_le_bytes(header);
        #[expect(clippy::cast_possible_truncation, reason = "the fields of it")]
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        match kind {
            request::IN => {
                let len = chain.writable().len();
                let offset = self.range(sector, len)?;
                chain.writable().read_exact_at(self.file.as_fd(), offset)?;
                Ok(len)
            }
            request::OUT => {
                if self.readonly {
                    return Err(Failure::Refused);
                }
                let offset = self.range(sector, chain.readable().len())?;
                chain.readable().write_all_at(self.file.as_fd(), offset)?;
                if self.write_through {
                    self.file.sync_data()?;
                }
                Ok(0)
            }
            request::FLUSH => {
                self.file.sync_data()?;
                Ok(0)
            }
            request::GET_ID => Ok(chain.writable().write(&self.serial) as u64),
            _ => Err(Failure::Unsupported),
        }
    }

    /// The byte offset of `sector`, if `len` bytes from there on are whole sectors of the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(len / SECTOR);
        let inside = end.is_some_and(|end| end <= self.capacity);
        if len.is_multiple_of(SECTOR) && inside {
            // No overflow: the capacity came from a size in bytes.
            Ok(sector * SECTOR)
        } else {
            Err(Failure::Refused)
        }
    }
}

/// Why a request fails.
enum Failure {
    /// The driver asked for what cannot be: IOERR.
    Refused,
    /// A request type that we do not have: UNSUPP.
    Unsupported,
    /// The host's file failed us: IOERR.
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Host(error)
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
