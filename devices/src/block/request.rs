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

/// The only flag of a segment: its space may be deallocated.
pub(super) const UNMAP: u32 = 1;

/// The status byte, the last byte of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// The state that requests use.
pub(super) struct Disk {
    pub(super) image: Image,
    pub(super) config: Arc<Config>,
    /// The features that the driver accepted.
    pub(super) features: u64,
    pub(super) readonly: bool,
    pub(super) serial: [u8; SERIAL_MAX],
    /// The name in log messages.
    pub(super) name: String,
    /// Whether a host error was reported. Only the first one is, so that a guest cannot fill the
    /// log.
    pub(super) reported: Arc<AtomicBool>,
    /// Notified of host calls and failed requests.
    pub(super) observer: Option<Arc<dyn DeviceObserver>>,
}

impl Disk {
    /// Serves one request: a 16-byte header at the start of the readable bytes, a status byte at
    /// the end of the writable bytes, data in between. How these are split into buffers does not
    /// matter (§ 2.7.4.3). Returns the bytes written.
    pub(super) fn serve(&mut self, chain: &mut Chain) -> u32 {
        if !chain.writable().split_last() {
            // There is no room for a status.
            return 0;
        }
        let (status, written) = match self.execute(chain) {
            Ok(written) => (Status::Ok, written),
            Err(Failure::Unsupported) => (Status::Unsupp, 0),
            Err(Failure::Refused) => (Status::IoErr, 0),
            Err(Failure::Host(error)) => {
                if !self.reported.swap(true, Ordering::Relaxed) {
                    warn!(
                        "{}: {error} (reported once; the guest sees I/O errors)",
                        self.name
                    );
                }
                (Status::IoErr, 0)
            }
        };
        if let Some(observer) = self.observer.as_ref().filter(|_| status != Status::Ok) {
            observer.see(Event::Failed { status: status as u8 });
        }
        chain.writable().put_last(status as u8);
        // A chain has at most 2^32 bytes; for one of exactly that length, one byte less is
        // reported.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    /// Executes the request. Returns the bytes of data written to the driver's buffers.
    fn execute(&mut self, chain: &mut Chain) -> Result<u64, Failure> {
        let header = chain.readable().take::<16>().ok_or(Failure::Refused)?;
        // le32 type, le32 reserved, le64 sector
        let header = u128::from_le_bytes(header);
        #[expect(clippy::cast_possible_truncation, reason = "extracts the fields")]
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

    /// Runs a host call, and reports it to the observer.
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

    /// Makes what was written durable, in write-through mode.
    fn written(&mut self) -> io::Result<()> {
        match self.config.is_write_through() {
            true => self.host(HostCall::Sync, 0, 0, |image| image.sync()),
            false => Ok(()),
        }
    }

    /// The segments of a DISCARD or WRITE_ZEROES request. Each is read once, and all are checked
    /// before any is executed. `flags` are the valid flags.
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
            #[expect(clippy::cast_possible_truncation, reason = "extracts the fields")]
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
            // fallocate(2) refuses an empty range.
            if len > 0 {
                ranges.push(Range { offset, len, unmap });
            }
        }
        Ok(ranges)
    }

    /// Like [`range`](Disk::range), for a read or write of at most [`config::REQUEST_MAX`] bytes.
    fn transfer(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        match len {
            ..=config::REQUEST_MAX => self.range(sector, len),
            _ => Err(Failure::Refused),
        }
    }

    /// The byte offset of `sector`, if `len` is a multiple of the sector size and the range lies
    /// within the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(len / SECTOR);
        let inside = end.is_some_and(|end| end <= self.config.capacity());
        if len.is_multiple_of(SECTOR) && inside {
            // Does not overflow: the capacity was computed from a size in bytes.
            Ok(sector * SECTOR)
        } else {
            Err(Failure::Refused)
        }
    }
}

/// A segment, in bytes.
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// Why a request failed.
enum Failure {
    /// The request is invalid: IOERR.
    Refused,
    /// An unknown request type or flag: UNSUPP.
    Unsupported,
    /// The host reported an error: IOERR.
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
