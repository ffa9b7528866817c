//! A driver for the block device (virtio 1.3 § 5.2): several requests in flight, polled.
//!
//! ```text
//!   a request:  header 16 (read by the device) │ data (either way) │ status 1 (written)
//! ```
//!
//! [`Block::read`], [`Block::write`], [`Block::flush`] and [`Block::id`] run one request at a time,
//! through a bounce buffer. [`Block::submit`] and [`Block::finish`] keep several requests in flight
//! without a copy. [`Block::submit_framed`] splits a request into arbitrary descriptors.

mod frame;
mod request;

pub use frame::Frame;
pub use request::{Done, Request, Status};

use crate::virtio::{device, feature};
use crate::{Dma, Error, Head, Queue, Region, Registers, Segment, Transport, Wait};
use frame::HEADER;
use request::check;

/// Feature bits of the block device (§5.2.3).
pub mod features {
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// The device has a volatile cache and the FLUSH request.
    pub const FLUSH: u64 = 1 << 9;
    /// The driver may turn the cache off and on.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// The device has the DISCARD request.
    pub const DISCARD: u64 = 1 << 13;
    /// The device has the WRITE_ZEROES request.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// The features that this driver can use.
pub const WANTED: u64 = features::RO
    | features::FLUSH
    | features::DISCARD
    | features::WRITE_ZEROES
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX;

/// Bytes of a sector, the unit of capacity and position (§5.2.4).
pub const SECTOR: usize = 512;
/// Bytes of the answer to GET_ID (§5.2.6).
pub const ID: usize = 20;

/// Requests that can be in flight at once.
const SLOTS: usize = 64;
/// Bytes of a slot's memory: the header, then the status.
const SLOT: usize = 32;
/// Bytes of the buffer through which `read` and `write` copy.
const BOUNCE: usize = 64 * 1024;
/// Bytes of a segment of DISCARD and WRITE_ZEROES.
const RANGE: usize = 16;
/// Offset of `capacity` in configuration space.
const CAPACITY: usize = 0;
/// A status byte that no device writes, to detect a missing one.
const NO_STATUS: u8 = 0xff;

/// A request in flight. Hand it to [`Block::poll`] or [`Block::finish`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the request must be finished"]
pub struct Token(usize);

#[derive(Debug)]
enum Slot {
    Free,
    /// The device holds the chain and will write the status there.
    InFlight(Head, Region),
    Done(Done),
}

/// A block device in operation.
#[derive(Debug)]
pub struct Block<R> {
    transport: Transport<R>,
    queue: Queue,
    slots: [Slot; SLOTS],
    /// [`SLOT`] bytes for each slot.
    control: Region,
    bounce: Region,
    capacity: u64,
}

impl<R: Registers> Block<R> {
    /// Initialises the device with those of the features `wanted` that it offers (usually
    /// [`WANTED`]) and a queue of at most `size` entries.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceId`] for another kind of device; errors of [`Transport`].
    pub fn new(
        mut transport: Transport<R>,
        dma: &mut Dma,
        wanted: u64,
        size: u16,
    ) -> Result<Self, Error> {
        if transport.device_id() != device::BLOCK {
            return Err(Error::DeviceId { found: transport.device_id(), wanted: device::BLOCK });
        }
        transport.negotiate(wanted)?;
        let capacity = transport.config_u64(CAPACITY)?;
        let queue = transport.queue(0, size, dma)?;
        let control = dma.alloc(SLOTS * SLOT)?;
        let bounce = dma.alloc(BOUNCE)?;
        transport.start();
        let slots = [const { Slot::Free }; SLOTS];
        Ok(Self { transport, queue, slots, control, bounce, capacity })
    }

    /// The transport, for its status, features and interrupts.
    pub fn transport(&self) -> &Transport<R> {
        &self.transport
    }

    /// The queue, for inspection.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Releases the device without a reset; [`new`](Self::new) may take it again.
    pub fn into_transport(self) -> Transport<R> {
        self.transport
    }

    /// Capacity in sectors of 512 bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the device refuses writes.
    pub fn read_only(&self) -> bool {
        self.transport.features() & features::RO != 0
    }

    /// Asks the device for interrupts, or for none.
    pub fn set_interrupts(&mut self, enabled: bool) {
        self.queue.set_interrupts(enabled);
    }

    /// Prepares a request with `data` between header and status: readable segments for the device
    /// to read, writable ones for it to write. Kick after the last one.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] if too much is in flight; [`Error::Chain`].
    pub fn submit(&mut self, request: Request, data: &[Segment]) -> Result<Token, Error> {
        let slot = self.free_slot()?;
        let start = slot * SLOT;
        let header = self.control.slice(start..start + HEADER);
        let status = self.control.slice(start + HEADER..start + HEADER + 1);
        frame::write_header(&header, request);
        status.write(0, &[NO_STATUS]);
        let mut segments = frame::Segments::default();
        segments.push(Segment::readable(&header))?;
        for segment in data {
            segments.push(*segment)?;
        }
        segments.push(Segment::writable(&status))?;
        let head = self.queue.add(segments.as_slice())?;
        Ok(self.occupy(slot, head, status))
    }

    /// Prepares a request whose header, data and status are contiguous in memory, split into
    /// segments as the frame says. A conforming device accepts any split (§2.7.4).
    ///
    /// # Errors
    ///
    /// [`Error::Cuts`] if the cuts do not add up; as [`submit`](Self::submit).
    pub fn submit_framed(&mut self, request: Request, frame: &Frame<'_>) -> Result<Token, Error> {
        let slot = self.free_slot()?;
        let status = frame.status()?;
        let segments = frame.segments()?;
        frame::write_header(frame.memory, request);
        status.write(0, &[NO_STATUS]);
        let head = self.queue.add_as(segments.as_slice(), frame.layout)?;
        Ok(self.occupy(slot, head, status))
    }

    /// Publishes the submitted requests, and notifies the device if it wants that.
    pub fn kick(&mut self) {
        if self.queue.publish() {
            self.transport.notify(self.queue.index());
        }
    }

    /// Returns the result of a request that is finished. After that the token is invalid.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub fn poll(&mut self, token: &Token) -> Result<Option<Done>, Error> {
        while let Some(used) = self.queue.pop()? {
            let holds =
                |slot: &&mut Slot| matches!(slot, Slot::InFlight(head, _) if *head == used.head);
            if let Some(slot) = self.slots.iter_mut().find(holds)
                && let Slot::InFlight(_, memory) = slot
            {
                let mut status = [NO_STATUS];
                // A device that wrote nothing wrote no status either.
                if used.written > 0 {
                    memory.read(0, &mut status);
                }
                let [status] = status.map(Status::from);
                *slot = Slot::Done(Done { status, written: used.written });
            }
        }
        let Some(slot) = self.slots.get_mut(token.0) else {
            return Ok(None);
        };
        let Slot::Done(done) = *slot else {
            return Ok(None);
        };
        *slot = Slot::Free;
        Ok(Some(done))
    }

    /// Kicks and waits for the end of a request.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::NeedsReset`], or the error that broke the queue. The device
    /// then still holds the request's memory.
    pub fn finish(&mut self, token: Token, wait: &mut impl Wait) -> Result<Done, Error> {
        self.kick();
        loop {
            if let Some(done) = self.poll(&token)? {
                return Ok(done);
            }
            if !wait.wait() {
                self.transport.alive()?;
                return Err(Error::Timeout);
            }
        }
    }

    /// Submits, kicks and waits.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit) and [`finish`](Self::finish).
    pub fn request(
        &mut self,
        request: Request,
        data: &[Segment],
        wait: &mut impl Wait,
    ) -> Result<Done, Error> {
        let token = self.submit(request, data)?;
        self.finish(token, wait)
    }

    /// Reads whole sectors from `sector` on.
    ///
    /// # Errors
    ///
    /// [`Error::NotSectors`] unless `into` is a positive multiple of 512 bytes;
    /// [`Error::Request`] when the device refuses; [`Error::Short`] when it wrote too little; as
    /// [`request`](Self::request).
    pub fn read(
        &mut self,
        sector: u64,
        into: &mut [u8],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        whole_sectors(into.len())?;
        for (chunk, first) in into.chunks_mut(BOUNCE).zip(chunk_sectors(sector)) {
            let data = self.bounce.slice(0..chunk.len());
            let done = self.request(Request::read(first), &[Segment::writable(&data)], wait)?;
            // The data and the status.
            check(done, chunk.len() + 1)?;
            data.read(0, chunk);
        }
        Ok(())
    }

    /// Writes whole sectors from `sector` on.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn write(&mut self, sector: u64, from: &[u8], wait: &mut impl Wait) -> Result<(), Error> {
        whole_sectors(from.len())?;
        for (chunk, first) in from.chunks(BOUNCE).zip(chunk_sectors(sector)) {
            let data = self.bounce.slice(0..chunk.len());
            data.write(0, chunk);
            let done = self.request(Request::write(first), &[Segment::readable(&data)], wait)?;
            check(done, 1)?;
        }
        Ok(())
    }

    /// Makes all completed writes durable. Without the FLUSH feature each completed write is
    /// durable already (§5.2.6.2).
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn flush(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        if self.transport.features() & features::FLUSH == 0 {
            return Ok(());
        }
        check(self.request(Request::flush(), &[], wait)?, 1)
    }

    /// Discards `count` sectors from `sector` on: their content is no longer needed.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`Status::Unsupp`] from a device without the DISCARD feature.
    pub fn discard(&mut self, sector: u64, count: u32, wait: &mut impl Wait) -> Result<(), Error> {
        self.range(Request::DISCARD, (sector, count, 0), wait)
    }

    /// Makes `count` sectors from `sector` on read as zeroes; with `unmap` their space may be
    /// deallocated.
    ///
    /// # Errors
    ///
    /// As [`discard`](Self::discard).
    pub fn write_zeroes(
        &mut self,
        sector: u64,
        count: u32,
        unmap: bool,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let segment = (sector, count, u32::from(unmap));
        self.range(Request::WRITE_ZEROES, segment, wait)
    }

    /// A request about one segment: sector, number of sectors, flags (§5.2.6).
    fn range(
        &mut self,
        kind: u32,
        (sector, count, flags): (u64, u32, u32),
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let data = self.bounce.slice(0..RANGE);
        data.write(0, &sector.to_le_bytes());
        data.write(8, &count.to_le_bytes());
        data.write(12, &flags.to_le_bytes());
        let request = Request { kind, sector: 0 };
        check(self.request(request, &[Segment::readable(&data)], wait)?, 1)
    }

    /// The identity (serial number): up to 20 bytes, padded with zeroes.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn id(&mut self, wait: &mut impl Wait) -> Result<[u8; ID], Error> {
        let data = self.bounce.slice(0..ID);
        // Not all devices write the rest of a short name.
        data.fill(0);
        let done = self.request(Request::id(), &[Segment::writable(&data)], wait)?;
        check(done, 1)?;
        let mut id = [0; ID];
        data.read(0, &mut id);
        Ok(id)
    }

    fn free_slot(&self) -> Result<usize, Error> {
        let free = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        free.ok_or(Error::QueueFull)
    }

    fn occupy(&mut self, slot: usize, head: Head, status: Region) -> Token {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot::InFlight(head, status);
        }
        Token(slot)
    }
}

/// The first sectors of the consecutive chunks of a transfer.
fn chunk_sectors(first: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |chunk| first.saturating_add(chunk * (BOUNCE / SECTOR) as u64))
}

fn whole_sectors(bytes: usize) -> Result<(), Error> {
    let whole = bytes > 0 && bytes.is_multiple_of(SECTOR);
    whole.then_some(()).ok_or(Error::NotSectors(bytes))
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
