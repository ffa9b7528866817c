//! A driver for the socket device (virtio 1.3 § 5.10): streams to and from programs of the host,
//! polled.
//!
//! ```text
//!   receiveq    header 44 │ data    written, one packet per buffer
//!   transmitq   header 44 │ data    read, one packet at a time
//!   eventq      id 4                written when all connections are lost
//! ```
//!
//! Data is copied. What a stream has received and the program has not taken is kept, up to
//! [`BUFFER`] bytes: that is the credit of its peer. A packet is answered before the next one is
//! taken.

mod connection;
pub mod packet;

pub use connection::BUFFER;

use crate::mmio::low;
use crate::receive::Receive;
use crate::virtio::{device, feature};
use crate::{Dma, Error, Queue, Region, Registers, Segment, Transport, Wait};
use connection::{Connection, Phase, Ports};
use packet::{HEADER, HOST, Header, STREAM, op, shutdown};

/// Feature bits of the socket device (§5.10.3).
pub mod features {
    /// Streams. Without any bit there are streams, too.
    pub const STREAM: u64 = 1 << 0;
}

/// The features that this driver can use.
pub const WANTED: u64 = features::STREAM | feature::INDIRECT_DESC | feature::EVENT_IDX;

/// Streams at a time.
pub const STREAMS_MAX: usize = 4;

/// The queues (§5.10.2).
const RECEIVEQ: u16 = 0;
const TRANSMITQ: u16 = 1;
const EVENTQ: u16 = 2;
/// Entries of the first two queues, and of the third.
const QUEUE_SIZE: u16 = 16;
const EVENTS: usize = 4;
/// Bytes of a receive buffer and of the transmit buffer: a packet with its header.
const PACKET: usize = 4096;
/// Bytes of a buffer for an event, and of an event (§5.10.6.7).
const EVENT_BUFFER: usize = 8;
const EVENT: usize = 4;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const TRANSPORT_RESET: [u8; EVENT] = [0; EVENT];
/// The first of our ports in connections that we make.
const PORT_BASE: u32 = 1024;

/// A stream. It is [closed](Vsock::close), or it occupies its place for ever.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Stream(usize);

/// A socket device in operation.
#[derive(Debug)]
pub struct Vsock<R> {
    transport: Transport<R>,
    receiveq: Receive<{ QUEUE_SIZE as usize }, PACKET>,
    transmitq: Queue,
    eventq: Receive<EVENTS, EVENT_BUFFER>,
    outgoing: Region,
    /// [`BUFFER`] bytes for each stream.
    memory: Region,
    cid: u64,
    listening: Option<u32>,
    next_port: u32,
    connections: [Option<Connection>; STREAMS_MAX],
}

impl<R: Registers> Vsock<R> {
    /// Initialises the device with those of the features `wanted` that it offers (usually
    /// [`WANTED`]) and gives it buffers for packets and events.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceId`] for another kind of device; errors of [`Transport`].
    pub fn new(mut transport: Transport<R>, dma: &mut Dma, wanted: u64) -> Result<Self, Error> {
        if transport.device_id() != device::SOCKET {
            return Err(Error::DeviceId { found: transport.device_id(), wanted: device::SOCKET });
        }
        // The driver knows no other kind of socket, whatever the caller wants.
        transport.negotiate(wanted & WANTED)?;
        let receiveq = Receive::new(&mut transport, dma, RECEIVEQ)?;
        let transmitq = transport.queue(TRANSMITQ, QUEUE_SIZE, dma)?;
        let eventq = Receive::new(&mut transport, dma, EVENTQ)?;
        let outgoing = dma.alloc(PACKET)?;
        let memory = dma.alloc(STREAMS_MAX * BUFFER)?;
        let cid = transport.config_u64(0)?;
        transport.start();
        let mut vsock = Self {
            transport,
            receiveq,
            transmitq,
            eventq,
            outgoing,
            memory,
            cid,
            listening: None,
            next_port: PORT_BASE,
            connections: [const { None }; STREAMS_MAX],
        };
        vsock.receiveq.post_all(&vsock.transport)?;
        vsock.eventq.post_all(&vsock.transport)?;
        Ok(vsock)
    }

    /// The transport, for its status, features and interrupts.
    pub fn transport(&self) -> &Transport<R> {
        &self.transport
    }

    /// Releases the device without a reset; [`new`](Self::new) may take it again.
    pub fn into_transport(self) -> Transport<R> {
        self.transport
    }

    /// The context ID of this machine.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Accepts connections to this port from now on, as many as there are places. All other ports
    /// are refused.
    pub fn listen(&mut self, port: u32) {
        self.listening = Some(port);
    }

    /// Waits for a connection to the port of [`listen`](Self::listen).
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`]; errors of the device.
    pub fn accept(&mut self, wait: &mut impl Wait) -> Result<Stream, Error> {
        loop {
            self.poll(wait)?;
            for (place, connection) in self.connections.iter_mut().enumerate() {
                if let Some(it) = connection.as_mut().filter(|it| it.phase == Phase::Incoming) {
                    it.phase = Phase::Open;
                    return Ok(Stream(place));
                }
            }
            self.pass(wait)?;
        }
    }

    /// Connects to a port of the host.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionReset`] if it is refused, [`Error::Streams`] without a free place,
    /// [`Error::Timeout`]; errors of the device.
    pub fn connect(&mut self, port: u32, wait: &mut impl Wait) -> Result<Stream, Error> {
        let ports = Ports { own: self.next_port, peer: port };
        self.next_port = self.next_port.wrapping_add(1).max(PORT_BASE);
        let stream = Stream(self.add(ports, Phase::Requested).ok_or(Error::Streams)?);
        match self.request(&stream, wait) {
            Ok(()) => Ok(stream),
            Err(error) => {
                self.close(stream, wait)?;
                Err(error)
            }
        }
    }

    fn request(&mut self, stream: &Stream, wait: &mut impl Wait) -> Result<(), Error> {
        self.control(stream, op::REQUEST, 0, wait)?;
        loop {
            self.poll(wait)?;
            match self.get(stream)?.phase {
                Phase::Open => return Ok(()),
                Phase::Closed => return Err(Error::ConnectionReset),
                Phase::Requested | Phase::Incoming => self.pass(wait)?,
            }
        }
    }

    /// Sends `bytes`, as the peer has room for them.
    ///
    /// # Errors
    ///
    /// As [`send_some`](Self::send_some); [`Error::Timeout`].
    pub fn send(
        &mut self,
        stream: &Stream,
        bytes: &[u8],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.send_some(stream, rest, wait)?;
            rest = rest.get(count..).unwrap_or_default();
            if count == 0 {
                self.pass(wait)?;
            }
        }
        Ok(())
    }

    /// Sends what the peer has room for now, at most a packet. Returns the number of bytes. Without
    /// room it asks the peer for credit, once.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionReset`]; [`Error::Finished`] after a shutdown; errors of the device.
    pub fn send_some(
        &mut self,
        stream: &Stream,
        bytes: &[u8],
        wait: &mut impl Wait,
    ) -> Result<usize, Error> {
        self.poll(wait)?;
        let connection = self.get(stream)?;
        match connection.phase {
            _ if connection.done & shutdown::SEND != 0 => return Err(Error::Finished),
            Phase::Closed => return Err(Error::ConnectionReset),
            _ if connection.peer_done & shutdown::RECEIVE != 0 => return Err(Error::Finished),
            _ => {}
        }
        let room = connection.credit().min(PACKET - HEADER);
        let data = bytes.get(..room).unwrap_or(bytes);
        if data.is_empty() {
            if !bytes.is_empty() && !core::mem::replace(&mut connection.asked, true) {
                self.control(stream, op::CREDIT_REQUEST, 0, wait)?;
            }
            return Ok(0);
        }
        let len = low(data.len() as u64);
        connection.send(len);
        let header = self.header(stream, op::RW)?;
        self.transmit(&Header { len, ..header }, data, wait)?;
        Ok(data.len())
    }

    /// Waits for data, and takes what fits into `into`. Returns the number of bytes, 0 at the end
    /// of the data.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionReset`], [`Error::Timeout`]; errors of the device.
    pub fn receive(
        &mut self,
        stream: &Stream,
        into: &mut [u8],
        wait: &mut impl Wait,
    ) -> Result<usize, Error> {
        loop {
            self.poll(wait)?;
            let connection = self.get(stream)?;
            let count = connection.take(into);
            if count > 0 {
                if connection.owes_credit() {
                    self.control(stream, op::CREDIT_UPDATE, 0, wait)?;
                }
                return Ok(count);
            }
            if connection.peer_done & shutdown::SEND != 0 {
                return Ok(0);
            }
            if connection.phase == Phase::Closed {
                return Err(Error::ConnectionReset);
            }
            self.pass(wait)?;
        }
    }

    /// Ends the data that is sent; the peer may go on.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionReset`], [`Error::Timeout`]; errors of the device.
    pub fn shutdown_send(&mut self, stream: &Stream, wait: &mut impl Wait) -> Result<(), Error> {
        let connection = self.get(stream)?;
        if connection.phase == Phase::Closed {
            return Err(Error::ConnectionReset);
        }
        connection.done |= shutdown::SEND;
        self.control(stream, op::SHUTDOWN, shutdown::SEND, wait)
    }

    /// Ends the stream and frees its place, when the peer has agreed or at the deadline. What was
    /// received is lost.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn close(&mut self, stream: Stream, wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.end(&stream, wait);
        if let Some(place) = self.connections.get_mut(stream.0) {
            *place = None;
        }
        result
    }

    fn end(&mut self, stream: &Stream, wait: &mut impl Wait) -> Result<(), Error> {
        if self.get(stream)?.phase == Phase::Open {
            self.control(stream, op::SHUTDOWN, shutdown::BOTH, wait)?;
        }
        loop {
            self.poll(wait)?;
            if self.get(stream)?.phase != Phase::Open || !wait.wait() {
                break;
            }
        }
        // The ports are free again after an RST.
        if self.get(stream)?.phase != Phase::Closed {
            self.control(stream, op::RST, 0, wait)?;
        }
        Ok(())
    }

    fn get(&mut self, stream: &Stream) -> Result<&mut Connection, Error> {
        let place = self.connections.get_mut(stream.0);
        place.and_then(Option::as_mut).ok_or(Error::Streams)
    }

    /// Adds a connection. Returns its place, if there is one.
    fn add(&mut self, ports: Ports, phase: Phase) -> Option<usize> {
        let place = self.connections.iter().position(Option::is_none)?;
        let memory = self.memory.slice(place * BUFFER..(place + 1) * BUFFER);
        *self.connections.get_mut(place)? = Some(Connection::new(memory, ports, phase));
        Some(place)
    }

    /// Passes time until the device may have done something.
    fn pass(&self, wait: &mut impl Wait) -> Result<(), Error> {
        if wait.wait() {
            return Ok(());
        }
        self.transport.alive()?;
        Err(Error::Timeout)
    }

    /// Takes the packets and events that have arrived, and answers them. It returns also from a
    /// flood of them.
    fn poll(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        self.take_events()?;
        for _ in 0..QUEUE_SIZE {
            let Some((buffer, written)) = self.receiveq.take_filled(&self.transport)? else {
                break;
            };
            let answer = self.packet(buffer, written)?;
            self.receiveq.repost(buffer, &self.transport)?;
            if let Some(answer) = answer {
                self.transmit(&answer, &[], wait)?;
            }
        }
        Ok(())
    }

    /// After a reset of the transport all connections are lost, and the context ID may be another.
    fn take_events(&mut self) -> Result<(), Error> {
        while let Some((buffer, written)) = self.eventq.take_filled(&self.transport)? {
            let mut id = [0; EVENT];
            self.eventq.read(buffer, 0, &mut id);
            self.eventq.repost(buffer, &self.transport)?;
            if written >= EVENT && id == TRANSPORT_RESET {
                self.cid = self.transport.config_u64(0)?;
                for connection in self.connections.iter_mut().flatten() {
                    connection.phase = Phase::Closed;
                }
            }
        }
        Ok(())
    }

    /// Handles the packet in a receive buffer. Returns the answer.
    fn packet(&mut self, buffer: usize, written: usize) -> Result<Option<Header>, Error> {
        let mut bytes = [0; HEADER];
        self.receiveq.read(buffer, 0, &mut bytes);
        let header = Header::parse(&bytes);
        let expected = HEADER as u64 + u64::from(header.len);
        if written < HEADER || (written as u64) < expected {
            return Err(Error::Short { written: low(written as u64), expected });
        }
        if (header.src_cid, header.dst_cid) != (HOST, self.cid) {
            return Ok(None);
        }
        let ports = Ports { own: header.dst_port, peer: header.src_port };
        let has_ports = |it: &Option<Connection>| it.as_ref().is_some_and(|it| it.ports == ports);
        let known = self.connections.iter().position(has_ports);
        let known = known.filter(|_| header.kind == STREAM).map(Stream);
        let Some(stream) = known else {
            let invited = header.kind == STREAM && self.listening == Some(ports.own);
            let added =
                (header.op == op::REQUEST && invited).then(|| self.add(ports, Phase::Incoming));
            return match added.flatten().map(Stream) {
                Some(stream) => {
                    self.get(&stream)?.update_credit(&header);
                    self.header(&stream, op::RESPONSE).map(Some)
                }
                None => Ok((header.op != op::RST).then(|| header.reply(op::RST))),
            };
        };
        let (receiveq, place) = (&self.receiveq, self.connections.get_mut(stream.0));
        let Some(connection) = place.and_then(Option::as_mut) else {
            return Ok(None);
        };
        connection.update_credit(&header);
        let read = |at, bytes: &mut [u8]| receiveq.read(buffer, HEADER + at, bytes);
        let stored = header.op != op::RW || connection.store(header.len as usize, read);
        if !stored {
            connection.phase = Phase::Closed;
            return Ok(Some(header.reply(op::RST)));
        }
        let answer = connection.handle(&header);
        answer.map(|op| self.header(&stream, op)).transpose()
    }

    /// The header of a packet of the stream.
    fn header(&mut self, stream: &Stream, op: u16) -> Result<Header, Error> {
        let src_cid = self.cid;
        let connection = self.get(stream)?;
        let Ports { own, peer } = connection.ports;
        let (buf_alloc, fwd_cnt) = connection.announce();
        Ok(Header {
            src_cid,
            dst_cid: HOST,
            src_port: own,
            dst_port: peer,
            kind: STREAM,
            op,
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        })
    }

    /// Sends a packet of the stream without data.
    fn control(
        &mut self,
        stream: &Stream,
        op: u16,
        flags: u32,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let header = self.header(stream, op)?;
        self.transmit(&Header { flags, ..header }, &[], wait)
    }

    /// Sends a packet, and returns when the device has taken it.
    fn transmit(
        &mut self,
        header: &Header,
        data: &[u8],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        // The device may still own the buffer, for example after a timeout.
        self.transport.drain(&mut self.transmitq, wait)?;
        let packet = self.outgoing.slice(0..HEADER + data.len());
        packet.write(0, &header.bytes());
        packet.write(HEADER, data);
        self.transmitq.add(&[Segment::readable(&packet)])?;
        if self.transmitq.publish() {
            self.transport.notify(TRANSMITQ);
        }
        self.transport.drain(&mut self.transmitq, wait)
    }
}

#[cfg(test)]
#[path = "vsock_test.rs"]
mod tests;
