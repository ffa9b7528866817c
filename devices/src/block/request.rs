//! The requests of a disk (§ 5.2.6).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;

use super::config::{self, Config, Limit};
use super::image::Image;
use super::{SECTOR, SERIAL_MAX, feature};
use crate::observe::{DeviceObserver, Event, HostCall};
use crate::virtio::chain::Chain;

/// Request types.
pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

/// The only flag of a segment: its space may be given back.
pub(super) const UNMAP: u32 = 1;

/// The last byte of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// A disk, as its requests see it.
pub(super) struct Disk {
    pub(super) image: Image,
    pub(super) config: Arc<Config>,
    /// The features that the driver accepted.
    pub(super) features: u64,
    pub(super) readonly: bool,
    pub(super) serial: [u8; SERIAL_MAX],
    /// What a warning calls it.
    pub(super) name: String,
    /// Whether a host error was reported: the first says it all, and a guest must not fill the log.
    pub(super) reported: Arc<AtomicBool>,
    /// Who is told of what the host does for it.
    pub(super) observer: Option<Arc<dyn DeviceObserver>>,
}

impl Disk {
    /// One request, however it is cut into buffers: a 16-byte header at the front of what is readable, a status byte at
    /// the end of what is writable, data in between. Returns how many bytes were written.
    pub(super) fn serve(&mut self, chain: &mut Chain) -> u32 {
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
                    warn!(
                        "{}: {error} (said once; the guest sees I/O errors)",
                        self.name
                    );
                }
                (Status::IoErr, 0)
            }
        };
        if let Some(observer) = self.observer.as_ref().filter(|_| status != Status::Ok) {
            observer.see(Event::Failed {
                status: status as u8,
            });
        }
        chain.writable().put_last(status as u8);
        // A chain has at most 2^32 bytes; the driver of that one learns a byte less.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    /// Carries the request out and returns the bytes of data written to the driver's buffers.
    fn execute(&mut self, chain: &mut Chain) -> Result<u64, Failure> {
        let header = chain.readable().take::<16>().ok_or(Failure::Refused)?;
        // le32 type, le32 reserved, le64 sector
        let header = u128::from_le_bytes(header);
        #[expect(clippy::cast_possible_truncation, reason = "the fields of it")]
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let accepted = |bit| self.features & bit != 0;
        match kind {
            IN => {
                let len = chain.writable().len();
                let offset = self.transfer(sector, len)?;
                self.host(HostCall::Read, offset, len, |image| {
                    image.read(chain.writable(), offset)
                })?;
                return Ok(len);
            }
            OUT => {
                self.check_writable()?;
                let len = chain.readable().len();
                let offset = self.transfer(sector, len)?;
                self.host(HostCall::Write, offset, len, |image| {
                    image.write(chain.readable(), offset)
                })?;
                self.written()?;
            }
            FLUSH => self.host(HostCall::Sync, 0, 0, |image| image.sync())?,
            GET_ID => return Ok(chain.writable().write(&self.serial) as u64),
            DISCARD if accepted(feature::DISCARD) => {
                for range in self.ranges(chain, &config::DISCARD, 0)? {
                    let Range { offset, len, .. } = range;
                    self.host(HostCall::Forget, offset, len, |image| {
                        image.discard(offset, len)
                    })?;
                }
            }
            WRITE_ZEROES if accepted(feature::WRITE_ZEROES) => {
                for range in self.ranges(chain, &config::WRITE_ZEROES, UNMAP)? {
                    let Range { offset, len, unmap } = range;
                    self.host(HostCall::Forget, offset, len, |image| {
                        image.zero(offset, len, unmap)
                    })?;
                }
                self.written()?;
            }
            _ => return Err(Failure::Unsupported),
        }
        Ok(0)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        match self.readonly {
            true => Err(Failure::Refused),
            false => Ok(()),
        }
    }

    /// Has the host do something with the file.
    fn host(
        &mut self,
        call: HostCall,
        offset: u64,
        len: u64,
        run: impl FnOnce(&mut Image) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(observer) = &self.observer else {
            return run(&mut self.image);
        };
        observer.see(Event::Host { call, offset, len });
        let result = run(&mut self.image);
        observer.see(Event::HostDone { ok: result.is_ok() });
        result
    }

    /// What was written is made durable, where the driver counts on that.
    fn written(&mut self) -> io::Result<()> {
        match self.config.is_write_through() {
            true => self.host(HostCall::Sync, 0, 0, |image| image.sync()),
            false => Ok(()),
        }
    }

    /// The segments of a DISCARD or WRITE_ZEROES, each read once, and all checked before anything happens. `flags` are
    /// those that it may have.
    fn ranges(&self, chain: &mut Chain, max: &Limit, flags: u32) -> Result<Vec<Range>, Failure> {
        const SEGMENT: usize = 16;
        self.check_writable()?;
        let (len, segment) = (chain.readable().len(), SEGMENT as u64);
        if len == 0 || !len.is_multiple_of(segment) || len / segment > max.segments.into() {
            return Err(Failure::Refused);
        }
        let mut ranges = Vec::new();
        while let Some(segment) = chain.readable().take::<SEGMENT>() {
            // le64 sector, le32 num_sectors, le32 flags
            let segment = u128::from_le_bytes(segment);
            #[expect(clippy::cast_possible_truncation, reason = "the fields of it")]
            let (sector, sectors, set) = (
                segment as u64,
                (segment >> 64) as u32,
                (segment >> 96) as u32,
            );
            if set & !flags != 0 {
                return Err(Failure::Unsupported);
            }
            if sectors > max.sectors {
                return Err(Failure::Refused);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = self.range(sector, len)?;
            let unmap = set & UNMAP != 0;
            // fallocate(2) refuses an empty range, and there is nothing to do.
            if len > 0 {
                ranges.push(Range { offset, len, unmap });
            }
        }
        Ok(ranges)
    }

    /// As [`range`](Disk::range), of `len` bytes that are read or written at once.
    fn transfer(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        match len {
            ..=config::REQUEST_MAX => self.range(sector, len),
            _ => Err(Failure::Refused),
        }
    }

    /// The byte offset of `sector`, if `len` bytes from there on are whole sectors of the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(len / SECTOR);
        let inside = end.is_some_and(|end| end <= self.config.capacity());
        if len.is_multiple_of(SECTOR) && inside {
            // No overflow: the capacity came from a size in bytes.
            Ok(sector * SECTOR)
        } else {
            Err(Failure::Refused)
        }
    }
}

/// A segment: bytes.
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// Why a request fails.
enum Failure {
    /// The driver asked for what cannot be: IOERR.
    Refused,
    /// A request type or flag that we do not have: UNSUPP.
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
#[path = "request_test.rs"]
mod tests;
