//! A driver for the network device (virtio 1.3 § 5.1): one pair of queues, polled.
//!
//! ```text
//!   receiveq    header 12 │ frame ─▶ rest of the frame ─▶ …     written, one buffer after another
//!   transmitq   header 12 │ frame                               read, two segments
//! ```
//!
//! Frames are copied: [`Net::receive`] takes one out of the receive buffers, and [`Net::send`]
//! returns when the device has taken it. Checksums are the caller's: no offload is negotiated.

use crate::mmio::offset;
use crate::receive::Receive;
use crate::virtio::{device, feature};
use crate::{Dma, Error, Queue, Region, Registers, Segment, Transport, Wait};

/// Feature bits of the network device (§5.1.3).
pub mod features {
    /// `mtu` is valid.
    pub const MTU: u64 = 1 << 3;
    /// `mac` is valid.
    pub const MAC: u64 = 1 << 5;
    /// A received frame may fill several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// `status` is valid.
    pub const STATUS: u64 = 1 << 16;
}

/// The features that this driver can use.
pub const WANTED: u64 = features::MTU
    | features::MAC
    | features::MRG_RXBUF
    | features::STATUS
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX;

/// Bytes of the header before each frame (§5.1.6): struct virtio_net_hdr with `num_buffers`.
pub const HEADER: usize = 12;
/// Bytes of addresses and type at the front of each frame.
pub const ETHERNET: usize = 14;
/// Bytes of the longest frame that is sent, and that is received without MRG_RXBUF.
pub const FRAME_MAX: usize = BUFFER - HEADER;

/// receiveq1 (§5.1.2).
const RECEIVEQ: u16 = 0;
/// transmitq1.
const TRANSMITQ: u16 = 1;
/// Entries of either queue. All receive buffers together hold the largest MTU (§5.1.4.2).
const QUEUE_SIZE: u16 = 64;
/// Bytes of a receive buffer, at least 1526 (§5.1.6.3.1), and of the transmit buffer.
const BUFFER: usize = 2048;

/// Offsets in configuration space (§5.1.4).
const MAC: usize = offset::CONFIG;
const STATUS: usize = offset::CONFIG + 6;
const MTU: usize = offset::CONFIG + 10;
/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// A network device in operation.
#[derive(Debug)]
pub struct Net<R> {
    transport: Transport<R>,
    receiveq: Receive<{ QUEUE_SIZE as usize }, BUFFER>,
    transmitq: Queue,
    /// The header, which stays zero, and the frame that is sent.
    outgoing: Region,
    mtu: Option<u16>,
}

impl<R: Registers> Net<R> {
    /// Initialises the device with those of the features `wanted` that it offers (usually
    /// [`WANTED`]) and gives it buffers for frames.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceId`] for another kind of device; errors of [`Transport`].
    pub fn new(mut transport: Transport<R>, dma: &mut Dma, wanted: u64) -> Result<Self, Error> {
        if transport.device_id() != device::NETWORK {
            return Err(Error::DeviceId { found: transport.device_id(), wanted: device::NETWORK });
        }
        // The driver has no offload and no control queue, whatever the caller wants.
        let accepted = transport.negotiate(wanted & WANTED)?;
        let mtu = match accepted & features::MTU {
            0 => None,
            _ => Some(transport.config(|registers| registers.read_u16(MTU))?),
        };
        let receiveq = Receive::new(&mut transport, dma, RECEIVEQ)?;
        let transmitq = transport.queue(TRANSMITQ, QUEUE_SIZE, dma)?;
        let outgoing = dma.alloc(BUFFER)?;
        transport.start();
        let mut net = Self { transport, receiveq, transmitq, outgoing, mtu };
        net.receiveq.post_all(&net.transport)?;
        Ok(net)
    }

    /// The transport, for its status, features and interrupts.
    pub fn transport(&self) -> &Transport<R> {
        &self.transport
    }

    /// Releases the device without a reset; [`new`](Self::new) may take it again.
    pub fn into_transport(self) -> Transport<R> {
        self.transport
    }

    /// The device's hardware address, if it offers MAC.
    ///
    /// # Errors
    ///
    /// As [`Transport::config`].
    pub fn mac(&self) -> Result<Option<[u8; 6]>, Error> {
        if self.transport.features() & features::MAC == 0 {
            return Ok(None);
        }
        let bytes = [0, 1, 2, 3, 4, 5];
        let mac = |registers: &R| bytes.map(|byte| registers.read_u8(MAC + byte));
        self.transport.config(mac).map(Some)
    }

    /// Whether the link is up; without STATUS it is (§5.1.4.2).
    ///
    /// # Errors
    ///
    /// As [`Transport::config`].
    pub fn is_up(&self) -> Result<bool, Error> {
        if self.transport.features() & features::STATUS == 0 {
            return Ok(true);
        }
        let status = self
            .transport
            .config(|registers| registers.read_u16(STATUS))?;
        Ok(status & LINK_UP != 0)
    }

    /// The maximum transmission unit: bytes of a frame after the first [`ETHERNET`] bytes, if the
    /// device offers MTU.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Bytes of the longest frame that may be sent.
    pub fn frame_max(&self) -> usize {
        let mtu = self.mtu.map_or(FRAME_MAX, usize::from);
        FRAME_MAX.min(mtu.saturating_add(ETHERNET))
    }

    /// Sends a frame, and returns when the device has taken it.
    ///
    /// # Errors
    ///
    /// [`Error::FrameLength`] for more than [`frame_max`](Self::frame_max) bytes, [`Error::Chain`]
    /// for none; [`Error::Timeout`], [`Error::NeedsReset`]; the error that broke the queue.
    pub fn send(&mut self, frame: &[u8], wait: &mut impl Wait) -> Result<(), Error> {
        let (len, max) = (frame.len(), self.frame_max());
        if len > max {
            return Err(Error::FrameLength { len, max });
        }
        // The device may still own the buffer, for example after a timeout.
        self.transport.drain(&mut self.transmitq, wait)?;
        let header = self.outgoing.slice(0..HEADER);
        let data = self.outgoing.slice(HEADER..HEADER + len);
        data.write(0, frame);
        let segments = [Segment::readable(&header), Segment::readable(&data)];
        self.transmitq.add(&segments)?;
        if self.transmitq.publish() {
            self.transport.notify(TRANSMITQ);
        }
        self.transport.drain(&mut self.transmitq, wait)
    }

    /// Takes the next frame that has arrived, without waiting. Returns its length. What does not
    /// fit into `into` is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Short`] for a buffer without a whole header, [`Error::NumBuffers`]; the error that
    /// broke the queue.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<Option<usize>, Error> {
        // For an empty buffer the device had to drop the frame.
        let Some((first, written)) = self.receiveq.take_filled(&self.transport)? else {
            return Ok(None);
        };
        if written < HEADER {
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            return Err(Error::Short { written, expected: HEADER as u64 });
        }
        let claimed = self.num_buffers(first);
        if claimed == 0 {
            return Err(Error::NumBuffers { claimed, used: 1 });
        }
        let mut len = written - HEADER;
        self.copy(first, HEADER, into, len);
        self.receiveq.repost(first, &self.transport)?;
        for used in 1..claimed {
            let next = self.receiveq.take()?;
            let (buffer, written) = next.ok_or(Error::NumBuffers { claimed, used })?;
            self.copy(buffer, 0, into.get_mut(len..).unwrap_or_default(), written);
            len += written;
            self.receiveq.repost(buffer, &self.transport)?;
        }
        Ok(Some(len))
    }

    /// Buffers of the frame that begins in `buffer`. Without MRG_RXBUF it has one (§5.1.6.4.1).
    fn num_buffers(&self, buffer: usize) -> u16 {
        if self.transport.features() & features::MRG_RXBUF == 0 {
            return 1;
        }
        let mut num_buffers = [0; 2];
        self.receiveq.read(buffer, HEADER - 2, &mut num_buffers);
        u16::from_le_bytes(num_buffers)
    }

    /// Copies what fits of the `len` bytes from `start` on of a receive buffer.
    fn copy(&self, buffer: usize, start: usize, into: &mut [u8], len: usize) {
        let count = len.min(into.len());
        let into = into.get_mut(..count).unwrap_or_default();
        self.receiveq.read(buffer, start, into);
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;
