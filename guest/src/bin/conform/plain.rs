//! The plain request: the simplest request that a kind of device serves, checked from end to end.

use guest::bare::{Descriptor, link};
use guest::net::HEADER;
use guest::tap::Failure;
use guest::vsock::packet::{HOST, Header, STREAM, op};
use guest::{Region, ensure};

use crate::device::{DATA, Device, Kind, UNIT};
use crate::disk::{OK, expect};

/// The output of a plain request of the console.
pub(crate) const TEXT: &[u8] = b".\n";
/// Bytes of a plain request of a network card.
pub(crate) const FRAME: usize = HEADER + 60;
/// Bytes of the entropy device's.
pub(crate) const RANDOM: u32 = 64;

/// A broadcast behind an empty header. Its type is IEEE 802's for experiments, so nobody answers.
pub(crate) fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let ethernet = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 0x88, 0xb5,
    ];
    for (place, byte) in frame.iter_mut().skip(HEADER).zip(ethernet) {
        *place = byte;
    }
    frame
}

/// All of `region`, which is small, for the device to read.
pub(crate) fn readable(region: &Region) -> Descriptor {
    Descriptor::readable(region.bus(), u32::try_from(region.len()).unwrap_or(0))
}

/// Bytes of a plain request of a balloon: the number of no page of RAM.
const NUMBER: usize = 4;

impl Device {
    /// Restores the device after a test, with rings of the usual size, and makes it serve a plain
    /// request.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        let size = self.usual_size();
        self.live_with(size)
            .and_then(|()| self.plain())
            .map_err(|failure| Failure::new(format_args!("not healed by a reset: {failure}")))
    }

    /// The bytes of a plain request that the device reads as a whole: a line of text, a broadcast
    /// that nobody answers, a packet that nobody answers, a page that is deflated.
    pub(crate) fn output(&self, into: &mut [u8; FRAME]) -> usize {
        let packet = Header {
            src_cid: self.transport.config_u64(0).unwrap_or(0),
            dst_cid: HOST,
            kind: STREAM,
            op: op::RST,
            ..Header::default()
        };
        let (packet, frame) = (packet.bytes(), frame());
        let bytes: &[u8] = match self.kind {
            Kind::Network => &frame,
            Kind::Socket => &packet,
            Kind::Balloon => &[0; NUMBER],
            _ => TEXT,
        };
        into.iter_mut().zip(bytes).for_each(|(to, it)| *to = *it);
        bytes.len()
    }

    /// The buffers of the plain request number `unit`: a read of sector `unit`, some random bytes,
    /// or the [`output`](Self::output). They are unit `unit` of the memory.
    pub(crate) fn buffers(&self, unit: u16) -> ([Descriptor; 3], usize) {
        let start = UNIT * usize::from(unit);
        let data = self.at(start + DATA);
        let none = Descriptor::default();
        match self.kind {
            Kind::Disk | Kind::ReadOnly => (self.read_request(unit, 512), 3),
            Kind::Entropy => ([Descriptor::writable(data, RANDOM), none, none], 1),
            _ => {
                let mut bytes = [0; FRAME];
                let len = self.output(&mut bytes);
                self.memory
                    .write(start + DATA, bytes.get(..len).unwrap_or_default());
                let output = self.memory.slice(start + DATA..start + DATA + len);
                ([readable(&output), none, none], 1)
            }
        }
    }

    /// Writes a plain request to the descriptors from `first` on of a table.
    pub(crate) fn chain(&self, table: &Region, first: u16, unit: u16) {
        let (buffers, count) = self.buffers(unit);
        link(table, first, buffers.get(..count).unwrap_or_default());
    }

    /// Descriptors of a plain request.
    pub(crate) fn chain_len(&self) -> u16 {
        match self.kind {
            Kind::Disk | Kind::ReadOnly => 3,
            _ => 1,
        }
    }

    /// Compares the answer to the plain request `unit` with the expected one.
    pub(crate) fn check(&self, unit: u16, written: u32) -> Result<(), Failure> {
        match self.kind {
            Kind::Disk | Kind::ReadOnly => {
                expect(self.status_of(unit), OK)?;
                ensure!(
                    written == 513,
                    "len {written} for a read of 512 bytes, not 513"
                );
                match self.kind {
                    Kind::Disk => self.check_sector(unit),
                    _ => Ok(()),
                }
            }
            Kind::Entropy => {
                ensure!(
                    (1..=RANDOM).contains(&written),
                    "len {written} for a buffer of {RANDOM} bytes"
                );
                Ok(())
            }
            _ => {
                ensure!(written == 0, "len {written} for output, not 0");
                Ok(())
            }
        }
    }

    /// One complete plain request, without a reset of the device.
    pub(crate) fn plain(&mut self) -> Result<(), Failure> {
        self.chain(self.ring().descriptors(), 0, 1);
        self.offer(&[0]);
        let (head, written) = self.answer()?;
        ensure!(head == 0, "the answer is for head {head}, not 0");
        self.check(1, written)
    }
}
