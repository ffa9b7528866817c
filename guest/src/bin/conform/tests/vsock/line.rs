//! The receive and the transmit queue of a socket device, by hand.

use guest::bare::{Descriptor, link};
use guest::ensure;
use guest::tap::Failure;
use guest::vsock::packet::{HEADER, HOST, Header, STREAM, op};

use super::RECEIVE;
use crate::device::{BLANK, DATA, Device, until};
use crate::plain::readable;
use crate::tests::net::{place, post};

/// A port that a program of the host serves, and one that none does.
pub(in crate::tests) const SERVED: u32 = 52;
pub(in crate::tests) const NOBODY: u32 = 0xffff_fff0;
/// Our port.
pub(in crate::tests) const OWN: u32 = 1024;
/// Receive buffers, and the bytes of each.
pub(super) const BUFFERS: [u32; 16] = [2048; 16];
pub(super) const ROOM: usize = 2048;
/// Bytes of most exchanges.
pub(super) const SHORT: usize = 1000;
pub(super) const SHORT_LEN: u32 = 1000;
/// Longest time for an answer, and how long to watch for one that must not come, in microseconds.
pub(super) const ANSWER: u64 = 5_000_000;
const QUIET: u64 = 50_000;

/// A received packet.
pub(in crate::tests) struct Packet {
    pub(in crate::tests) header: Header,
    bytes: [u8; ROOM],
}

impl Packet {
    pub(super) fn data(&self) -> &[u8] {
        let len = usize::try_from(self.header.len).unwrap_or(usize::MAX);
        self.bytes.get(HEADER..HEADER + len).unwrap_or_default()
    }
}

/// A live device with receive buffers.
pub(in crate::tests) struct Line<'a> {
    pub(in crate::tests) device: &'a mut Device,
    cid: u64,
    /// Used receive buffers that were read.
    pub(super) taken: u16,
}

impl<'a> Line<'a> {
    pub(in crate::tests) fn open(device: &'a mut Device) -> Result<Self, Failure> {
        device.live(0)?;
        post(device, &BUFFERS);
        Self::without_buffers(device)
    }

    /// The same for a live device whose receive queue is the caller's.
    pub(in crate::tests) fn without_buffers(device: &'a mut Device) -> Result<Self, Failure> {
        let cid = device.transport.config_u64(0)?;
        Ok(Self { device, cid, taken: 0 })
    }

    /// The header of a packet to `port`, with much credit.
    pub(in crate::tests) fn header(&self, op: u16, port: u32) -> Header {
        Header {
            src_cid: self.cid,
            dst_cid: HOST,
            src_port: OWN,
            dst_port: port,
            kind: STREAM,
            op,
            buf_alloc: 1 << 20,
            ..Header::default()
        }
    }

    /// Writes a packet into the buffers. Returns it as one descriptor.
    pub(in crate::tests) fn place(&self, header: &Header, data: &[u8]) -> Descriptor {
        let packet = self.device.memory.slice(DATA..DATA + HEADER + data.len());
        packet.write(0, &header.bytes());
        packet.write(HEADER, data);
        readable(&packet)
    }

    /// Sends what is in these buffers.
    pub(super) fn send_by(&mut self, buffers: &[Descriptor]) -> Result<(), Failure> {
        link(self.device.ring().descriptors(), 0, buffers);
        self.device.offer(&[0]);
        let (_, written) = self.device.answer()?;
        ensure!(written == 0, "len {written} for a packet that is sent");
        Ok(())
    }

    /// Sends a packet with these bytes behind the header.
    pub(in crate::tests) fn send(&mut self, header: &Header, data: &[u8]) -> Result<(), Failure> {
        let packet = self.place(header, data);
        self.send_by(&[packet])
    }

    pub(super) fn arrives(&self, microseconds: u64) -> bool {
        let [ring, _] = &self.device.rings;
        until(microseconds, || ring.used() != self.taken)
    }

    /// Waits for a packet, and gives its buffer back.
    pub(in crate::tests) fn next(&mut self) -> Result<Packet, Failure> {
        ensure!(self.arrives(ANSWER), "no packet");
        let [ring, _] = &self.device.rings;
        let (head, len) = ring.element(self.taken);
        self.taken = self.taken.wrapping_add(1);
        let index = u16::try_from(head).unwrap_or(u16::MAX);
        ensure!(usize::from(index) < BUFFERS.len(), "buffer {head}");
        let (at, end) = (place(index), usize::try_from(len).unwrap_or(usize::MAX));
        ensure!((HEADER..=ROOM).contains(&end), "len {len} for a packet");
        let blank = self.device.is_blank(at + end..at + ROOM);
        ensure!(blank, "bytes behind the packet changed");
        let mut bytes = [0; ROOM];
        self.device.memory.read(at, &mut bytes);
        let header = Header::parse(bytes.first_chunk().unwrap_or(&[0; HEADER]));
        let claimed = HEADER as u64 + u64::from(header.len);
        ensure!(claimed == u64::from(len), "len {len} for {header:?}");
        let cids = (header.src_cid, header.dst_cid);
        ensure!(cids == (HOST, self.cid), "from and to {cids:?}");
        self.device.memory.slice(at..at + ROOM).fill(BLANK);
        ring.offer(&[index]);
        self.device.kick(RECEIVE);
        Ok(Packet { header, bytes })
    }

    /// The next packet that is not about credit.
    pub(super) fn next_event(&mut self) -> Result<Packet, Failure> {
        loop {
            let packet = self.next()?;
            if !matches!(packet.header.op, op::CREDIT_UPDATE | op::CREDIT_REQUEST) {
                return Ok(packet);
            }
        }
    }

    /// Checks that no packet but those about credit comes for a while.
    pub(in crate::tests) fn stays_quiet(&mut self) -> Result<(), Failure> {
        while self.arrives(QUIET) {
            let Header { op, len, .. } = self.next()?.header;
            let credit = matches!(op, op::CREDIT_UPDATE | op::CREDIT_REQUEST);
            ensure!(credit, "operation {op} with {len} bytes");
        }
        Ok(())
    }

    /// Checks that the next packet is an RST for `header`.
    pub(in crate::tests) fn is_reset(&mut self, header: &Header) -> Result<(), Failure> {
        let found = self.next_event()?.header;
        let found = Header { buf_alloc: 0, fwd_cnt: 0, ..found };
        let expected = header.reply(op::RST);
        ensure!(found == expected, "{found:?} for {header:?}");
        Ok(())
    }

    /// Connects to the port that is served, from this port. Returns false if it is refused.
    pub(in crate::tests) fn connect(&mut self, from: u32, buf_alloc: u32) -> Result<bool, Failure> {
        let request = self.header(op::REQUEST, SERVED);
        let request = Header { src_port: from, buf_alloc, ..request };
        self.send(&request, &[])?;
        // Those of other connections may come first.
        let found = loop {
            let found = self.next_event()?.header;
            if found.dst_port == from {
                break found;
            }
        };
        let from = (found.src_port, found.kind);
        ensure!(from == (SERVED, STREAM), "{found:?}");
        match found.op {
            op::RESPONSE => {
                ensure!(found.buf_alloc > 0, "no credit");
                Ok(true)
            }
            op::RST => Ok(false),
            other => Err(Failure::new(format_args!("operation {other}"))),
        }
    }

    /// Sends the bytes from `at` on.
    pub(in crate::tests) fn write(
        &mut self,
        at: usize,
        len: usize,
        credit: Header,
    ) -> Result<(), Failure> {
        let bytes: [u8; SHORT] = bytes_from(at);
        let len = len.min(SHORT);
        let data = bytes.get(..len).unwrap_or_default();
        let header = Header { op: op::RW, len: u32::try_from(len).unwrap_or(0), ..credit };
        self.send(&header, data)
    }

    /// Receives the bytes from `at` to `end`, and compares them.
    pub(super) fn read(&mut self, mut at: usize, end: usize) -> Result<(), Failure> {
        while at < end {
            let packet = self.next_event()?;
            let (op, data) = (packet.header.op, packet.data());
            ensure!(op == op::RW, "operation {op} after {at} bytes");
            ensure!(!data.is_empty(), "no data after {at} bytes");
            let expected: [u8; ROOM] = bytes_from(at);
            ensure!(expected.starts_with(data), "other bytes from {at} on");
            at += data.len();
        }
        ensure!(at == end, "{at} bytes, not {end}");
        Ok(())
    }
}

/// Bytes that show every loss and every swap.
pub(super) fn bytes_from<const N: usize>(at: usize) -> [u8; N] {
    core::array::from_fn(|nth| ((at + nth) % 251).to_le_bytes()[0])
}
