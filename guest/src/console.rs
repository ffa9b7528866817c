//! A driver for the console (virtio 1.3 § 5.3): port 0, without MULTIPORT.

use crate::mmio::offset;
use crate::receive::Receive;
use crate::virtio::{device, feature};
use crate::{Dma, Error, Queue, Region, Registers, Segment, Transport, Wait};

/// Feature bits of the console (§5.3.3).
pub mod features {
    /// `cols` and `rows` are valid.
    pub const SIZE: u64 = 1 << 0;
    /// The device has several ports; not supported here.
    pub const MULTIPORT: u64 = 1 << 1;
    /// `emerg_wr` can be written.
    pub const EMERG_WRITE: u64 = 1 << 2;
}

/// The features that this driver can use.
pub const WANTED: u64 =
    features::SIZE | features::EMERG_WRITE | feature::INDIRECT_DESC | feature::EVENT_IDX;

/// receiveq of port 0 (§5.3.2).
const RECEIVEQ: u16 = 0;
/// transmitq of port 0.
const TRANSMITQ: u16 = 1;
/// Entries of either queue.
const QUEUE_SIZE: u16 = 16;
/// Bytes of one receive buffer.
const RECEIVE: usize = 256;
/// Bytes sent at once.
const TRANSMIT: usize = 4096;

/// Offsets in configuration space (§5.3.4).
const COLS: usize = offset::CONFIG;
const ROWS: usize = offset::CONFIG + 2;
const EMERG_WR: usize = offset::CONFIG + 8;

/// A receive buffer with input; `start..end` is not read yet.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    buffer: usize,
    start: usize,
    end: usize,
}

/// A console in operation.
#[derive(Debug)]
pub struct Console<R> {
    transport: Transport<R>,
    receiveq: Receive<{ QUEUE_SIZE as usize }, RECEIVE>,
    transmitq: Queue,
    outgoing: Region,
    arrived: Option<Arrived>,
}

impl<R: Registers> Console<R> {
    /// Initialises the device with those of the features `wanted` that it offers (usually
    /// [`WANTED`]) and gives it buffers for input.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceId`] for another kind of device; errors of [`Transport`].
    pub fn new(mut transport: Transport<R>, dma: &mut Dma, wanted: u64) -> Result<Self, Error> {
        if transport.device_id() != device::CONSOLE {
            return Err(Error::DeviceId { found: transport.device_id(), wanted: device::CONSOLE });
        }
        transport.negotiate(wanted & !features::MULTIPORT)?;
        let receiveq = Receive::new(&mut transport, dma, RECEIVEQ)?;
        let transmitq = transport.queue(TRANSMITQ, QUEUE_SIZE, dma)?;
        let outgoing = dma.alloc(TRANSMIT)?;
        transport.start();
        let mut console = Self { transport, receiveq, transmitq, outgoing, arrived: None };
        console.receiveq.post_all(&console.transport)?;
        Ok(console)
    }

    /// The transport, for its status, features and interrupts.
    pub fn transport(&self) -> &Transport<R> {
        &self.transport
    }

    /// Columns and rows of the terminal, if the device offers SIZE.
    ///
    /// # Errors
    ///
    /// As [`Transport::config`].
    pub fn size(&self) -> Result<Option<(u16, u16)>, Error> {
        if self.transport.features() & features::SIZE == 0 {
            return Ok(None);
        }
        let size = |registers: &R| (registers.read_u16(COLS), registers.read_u16(ROWS));
        self.transport.config(size).map(Some)
    }

    /// Sends all of `bytes`, and returns when the device has used them.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] (part of the bytes may have been sent), [`Error::NeedsReset`]; the error
    /// that broke the queue.
    pub fn send(&mut self, bytes: &[u8], wait: &mut impl Wait) -> Result<(), Error> {
        for chunk in bytes.chunks(TRANSMIT) {
            // The device may still own the buffer, for example after a timeout.
            self.transport.drain(&mut self.transmitq, wait)?;
            let data = self.outgoing.slice(0..chunk.len());
            data.write(0, chunk);
            self.transmitq.add(&[Segment::readable(&data)])?;
            if self.transmitq.publish() {
                self.transport.notify(TRANSMITQ);
            }
            self.transport.drain(&mut self.transmitq, wait)?;
        }
        Ok(())
    }

    /// Reads the input that has arrived, without waiting. Returns the number of bytes in `into`.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let Some(mut arrived) = self.next_arrived()? else {
            return Ok(0);
        };
        let count = into.len().min(arrived.end - arrived.start);
        if let Some(into) = into.get_mut(..count) {
            self.receiveq.read(arrived.buffer, arrived.start, into);
        }
        arrived.start += count;
        self.arrived = Some(arrived).filter(|arrived| arrived.start < arrived.end);
        if self.arrived.is_none() {
            self.receiveq.repost(arrived.buffer, &self.transport)?;
        }
        Ok(count)
    }

    /// The buffer to read from: the rest of the last one, or the next one that is not empty.
    fn next_arrived(&mut self) -> Result<Option<Arrived>, Error> {
        if self.arrived.is_some() {
            return Ok(self.arrived);
        }
        let filled = self.receiveq.take_filled(&self.transport)?;
        Ok(filled.map(|(buffer, end)| Arrived { buffer, start: 0, end }))
    }
}

/// Writes one byte through `emerg_wr`, which needs no queue and no initialisation (§5.3.4). The
/// device must offer [`features::EMERG_WRITE`].
pub fn emergency_write<R: Registers>(transport: &Transport<R>, byte: u8) {
    transport.registers().write(EMERG_WR, byte.into());
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
