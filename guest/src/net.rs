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
use crate::virtio::{device, feature};
use crate::{Dma, Error, Head, Queue, Region, Registers, Segment, Transport, Wait};

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
    receiveq: Queue,
    transmitq: Queue,
    /// [`BUFFER`] bytes for each entry of the receiveq.
    incoming: Region,
    /// The header, which stays zero, and the frame that is sent.
    outgoing: Region,
    /// The chain of each receive buffer, while the device has it.
    posted: [Option<Head>; QUEUE_SIZE as usize],
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
        let receiveq = transport.queue(RECEIVEQ, QUEUE_SIZE, dma)?;
        let transmitq = transport.queue(TRANSMITQ, QUEUE_SIZE, dma)?;
        let incoming = dma.alloc(usize::from(QUEUE_SIZE) * BUFFER)?;
        let outgoing = dma.alloc(BUFFER)?;
        let posted = [None; QUEUE_SIZE as usize];
        transport.start();
        let mut net = Self { transport, receiveq, transmitq, incoming, outgoing, posted, mtu };
        for buffer in 0..usize::from(net.receiveq.size()) {
            net.post(buffer)?;
        }
        net.kick_receiveq();
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
        self.drain(wait)?;
        let header = self.outgoing.slice(0..HEADER);
        let data = self.outgoing.slice(HEADER..HEADER + len);
        data.write(0, frame);
        let segments = [Segment::readable(&header), Segment::readable(&data)];
        self.transmitq.add(&segments)?;
        if self.transmitq.publish() {
            self.transport.notify(TRANSMITQ);
        }
        self.drain(wait)
    }

    /// Takes the next frame that has arrived, without waiting. Returns its length. What does not
    /// fit into `into` is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Short`] for a buffer without a whole header, [`Error::NumBuffers`]; the error that
    /// broke the queue.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<Option<usize>, Error> {
        // An empty buffer: the device had to drop the frame.
        let (first, written) = loop {
            match self.take()? {
                None => return Ok(None),
                Some((buffer, 0)) => self.repost(buffer)?,
                Some(found) => break found,
            }
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
        self.repost(first)?;
        for used in 1..claimed {
            let next = self.take()?;
            let (buffer, written) = next.ok_or(Error::NumBuffers { claimed, used })?;
            self.copy(buffer, 0, into.get_mut(len..).unwrap_or_default(), written);
            len += written;
            self.repost(buffer)?;
        }
        Ok(Some(len))
    }

    /// Buffers of the frame that begins in `buffer`. Without MRG_RXBUF it has one (§5.1.6.4.1).
    fn num_buffers(&self, buffer: usize) -> u16 {
        if self.transport.features() & features::MRG_RXBUF == 0 {
            return 1;
        }
        let mut num_buffers = [0; 2];
        self.incoming
            .read(buffer * BUFFER + HEADER - 2, &mut num_buffers);
        u16::from_le_bytes(num_buffers)
    }

    /// Copies what fits of the `len` bytes from `start` on of a receive buffer.
    fn copy(&self, buffer: usize, start: usize, into: &mut [u8], len: usize) {
        let count = len.min(into.len());
        let into = into.get_mut(..count).unwrap_or_default();
        self.incoming.read(buffer * BUFFER + start, into);
    }

    /// The next receive buffer that the device has used, and the bytes it wrote.
    fn take(&mut self) -> Result<Option<(usize, usize)>, Error> {
        while let Some(used) = self.receiveq.pop()? {
            let mut posted = self.posted.iter_mut().enumerate();
            if let Some((buffer, head)) = posted.find(|(_, head)| **head == Some(used.head)) {
                *head = None;
                // `pop` has checked that this is at most the buffer's length.
                let written = usize::try_from(used.written).unwrap_or(BUFFER).min(BUFFER);
                return Ok(Some((buffer, written)));
            }
        }
        Ok(None)
    }

    fn repost(&mut self, buffer: usize) -> Result<(), Error> {
        self.post(buffer)?;
        self.kick_receiveq();
        Ok(())
    }

    /// Makes receive buffer `buffer` available to the device.
    fn post(&mut self, buffer: usize) -> Result<(), Error> {
        let start = buffer * BUFFER;
        let memory = self.incoming.slice(start..start + BUFFER);
        let head = self.receiveq.add(&[Segment::writable(&memory)])?;
        if let Some(posted) = self.posted.get_mut(buffer) {
            *posted = Some(head);
        }
        Ok(())
    }

    fn kick_receiveq(&mut self) {
        if self.receiveq.publish() {
            self.transport.notify(RECEIVEQ);
        }
    }

    /// Waits until the transmitq is empty.
    fn drain(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        loop {
            while self.transmitq.pop()?.is_some() {}
            if self.transmitq.in_flight() == 0 {
                return Ok(());
            }
            if !wait.wait() {
                self.transport.alive()?;
                return Err(Error::Timeout);
            }
        }
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;
