//! Valid rings with invalid packets and buffers of the socket device.

use guest::bare::{Descriptor, WRITE, link};
use guest::ensure;
use guest::tap::{Failure, Verdict};
use guest::vsock::packet::{HEADER, Header, op, shutdown};

use super::survived;
use crate::device::{Device, Met};
use crate::plain::readable;
use crate::tests::net::{bounded, post};
use crate::tests::vsock::{EVENT, Line, NOBODY, OWN, SERVED, attach_events};
use crate::tests::{PASS, SOCKET, Test, needed, test};

/// Offset of long packets.
const AT: usize = 0x2_0000;
/// Bytes of a small packet's data.
const DATA: [u8; 100] = [0x3c; 100];

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("5.10.6", "a packet of 0 bytes", SOCKET, |device| short(device, 0)),
    test("5.10.6", "a packet of 1 byte", SOCKET, |device| short(device, 1)),
    test("5.10.6", "a packet of 43 bytes", SOCKET, |device| short(device, 43)),
    test("5.10.6", "a header in a writable buffer", SOCKET, |device| offer(device, |buffer| buffer.with(WRITE))),
    test("5.10.6", "a packet from beyond the memory", SOCKET, |device| { let address = device.ram.0 + device.ram.1; offer(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.10.6", "a packet from the device's own registers", SOCKET, |device| { let address = device.slot.base; offer(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.10.6.4", "a length beyond the buffers is not sent", SOCKET, |device| length(device, 101)),
    test("5.10.6.4", "a length of 0xffffffff is not sent", SOCKET, |device| length(device, u32::MAX)),
    test("5.10.6.4", "a packet of 128 KiB", SOCKET, long),
    test("5.10.6.4", "1000 packets without data on a connection", SOCKET, empty),
    test("5.10.6.2", "a source CID of somebody else is not heard", SOCKET, |device| address(device, |header| Header { src_cid: header.src_cid + 1, ..header })),
    test("5.10.6.2", "a source CID with its upper half set is not heard", SOCKET, |device| address(device, |header| Header { src_cid: header.src_cid | 1 << 32, ..header })),
    test("5.10.6.2", "destination CIDs that are not the host's are not heard", SOCKET, |device| [0, 1, 3, 1 << 32 | 2, u64::MAX].iter().try_fold((), |(), cid| address(device, |header| Header { dst_cid: *cid, ..header }).map(|_| ())).and(PASS)),
    test("5.10.6.5", "a REQUEST on a connection", SOCKET, |device| out_of_place(device, op::REQUEST, 0)),
    test("5.10.6.5", "a RESPONSE on a connection", SOCKET, |device| out_of_place(device, op::RESPONSE, 0)),
    test("5.10.6.5", "unknown operations on a connection", SOCKET, |device| [0, 8, 0xffff].iter().try_fold((), |(), op| out_of_place(device, *op, 0).map(|_| ())).and(PASS)),
    test("5.10.6.5", "a SHUTDOWN without flags, and with all", SOCKET, |device| [0, u32::MAX].iter().try_fold((), |(), flags| out_of_place(device, op::SHUTDOWN, *flags).map(|_| ())).and(PASS)),
    test("5.10.6.5", "data after a SHUTDOWN of sending", SOCKET, after_shutdown),
    test("5.10.6.3", "300 KiB without credit from us: the device stops or resets", SOCKET, flood),
    test("5.10.6.3", "fwd_cnt far beyond what was sent", SOCKET, |device| wrong_credit(device, 0, u32::MAX / 2)),
    test("5.10.6.3", "a buffer of 0xffffffff bytes, of which all were taken", SOCKET, |device| wrong_credit(device, u32::MAX, u32::MAX)),
    test("5.10.6.1", "2000 REQUESTs without receive buffers", SOCKET, |device| requests(device, NOBODY, 2000)),
    test("5.10.6.1", "300 REQUESTs for the port that is served, from as many ports", SOCKET, |device| requests(device, SERVED, 300)),
    test("5.10.6.4", "a receive buffer of 0 bytes", SOCKET, |device| small(device, 0)),
    test("5.10.6.4", "receive buffers of 1 byte", SOCKET, |device| small(device, 1)),
    test("5.10.6.4", "receive buffers of 43 bytes", SOCKET, |device| small(device, 43)),
    test("5.10.6.4", "receive buffers of 44 bytes", SOCKET, |device| small(device, 44)),
    test("5.10.6.4", "receive buffers of 45 bytes", SOCKET, |device| small(device, 45)),
    test("5.10.6.4", "a receive buffer that is readable", SOCKET, |device| receive(device, |device| Descriptor::readable(device.at(AT), 2048))),
    test("5.10.6.4", "a receive buffer beyond the memory", SOCKET, |device| receive(device, |device| Descriptor::writable(device.ram.0 + device.ram.1, 2048))),
    test("5.10.6.4", "a receive buffer across the end of the memory", SOCKET, |device| receive(device, |device| Descriptor::writable(device.ram.0 + device.ram.1 - 64, 2048))),
    test("5.10.6.7", "event buffers of 1 byte", SOCKET, event_buffers),
    test("2.4.1", "a reset with connections and their data, 20 times", SOCKET, resets),
];

/// Sends the first bytes of a header.
fn short(device: &mut Device, len: u32) -> Verdict {
    offer(device, |buffer| Descriptor { len, ..buffer })
}

/// Sends a header in a buffer that is changed.
fn offer(device: &mut Device, change: impl Fn(Descriptor) -> Descriptor) -> Verdict {
    let mut line = Line::open(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    let buffer = change(line.place(&header, &[]));
    link(line.device.ring().descriptors(), 0, &[buffer]);
    line.device.offer(&[0]);
    if let Met::Answered(_) = line.device.settle() {
        // Nothing of it may have been taken for a header.
        line.stays_quiet()?;
    }
    survived(device)
}

/// Sends 100 bytes with this length. They must not come back.
fn length(device: &mut Device, len: u32) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = Header { len, ..line.header(op::RW, SERVED) };
    line.send(&header, &DATA)?;
    line.is_reset(&header)?;
    line.stays_quiet()?;
    PASS
}

/// More than a packet may have, and more than a connection has credit for.
fn long(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let len = 128 << 10;
    let header = Header { len, ..line.header(op::RW, SERVED) };
    let all = line.device.memory.slice(AT..AT + HEADER + (128 << 10) - 64);
    all.write(0, &Header { len: len - 64, ..header }.bytes());
    link(line.device.ring().descriptors(), 0, &[readable(&all)]);
    line.device.offer(&[0]);
    survived(device)
}

fn empty(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = line.header(op::RW, SERVED);
    for _ in 0..1000 {
        line.send(&header, &[])?;
    }
    line.stays_quiet()?;
    PASS
}

/// Sends data on a connection, and a REQUEST, with wrong addresses. Neither may have an effect.
fn address(device: &mut Device, change: impl Fn(Header) -> Header) -> Verdict {
    let mut line = Line::open(device)?;
    let served = line.connect(OWN, 1 << 16)?;
    for header in [
        line.header(op::RW, SERVED),
        line.header(op::REQUEST, NOBODY),
    ] {
        line.send(&Header { len: 100, ..change(header) }, &DATA)?;
    }
    line.stays_quiet()?;
    needed!(served, "nobody serves port 52");
    let header = line.header(op::RW, SERVED);
    line.write(0, 100, header)?;
    ensure!(line.next()?.header.op == op::RW, "the connection has ended");
    PASS
}

/// Sends a packet on a connection, which may end by it. Another connection then works.
fn out_of_place(device: &mut Device, op: u16, flags: u32) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = line.header(op, SERVED);
    line.send(&Header { flags, ..header }, &[])?;
    ensure!(line.connect(OWN + 1, 1 << 16)?, "the next one is refused");
    PASS
}

fn after_shutdown(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 0)?, "nobody serves port 52");
    let header = Header { buf_alloc: 0, ..line.header(op::SHUTDOWN, SERVED) };
    line.send(&Header { flags: shutdown::SEND, ..header }, &[])?;
    line.write(0, 100, header)?;
    ensure!(line.connect(OWN + 1, 1 << 16)?, "the next one is refused");
    PASS
}

/// Sends without a look at the credit, while nothing is received.
fn flood(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 0)?, "nobody serves port 52");
    let header = Header { buf_alloc: 0, ..line.header(op::RW, SERVED) };
    for at in 0..300 {
        line.write(at * 1000, 1000, header)?;
    }
    ensure!(line.connect(OWN + 1, 1 << 16)?, "the next one is refused");
    PASS
}

fn wrong_credit(device: &mut Device, buf_alloc: u32, fwd_cnt: u32) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = Header { buf_alloc, fwd_cnt, ..line.header(op::RW, SERVED) };
    line.write(0, 1000, header)?;
    ensure!(line.connect(OWN + 1, 1 << 16)?, "the next one is refused");
    PASS
}

/// As many connections as the device may keep, and more, with nowhere to put the replies. It may
/// stop taking packets.
fn requests(device: &mut Device, port: u32, count: u32) -> Verdict {
    device.live(0)?;
    let line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, port);
    for nth in 0..count {
        let header = Header { src_port: OWN + nth, ..header };
        let packet = line.place(&header, &[]);
        link(line.device.ring().descriptors(), 0, &[packet]);
        line.device.offer(&[0]);
        if line.device.settle() == Met::Silence {
            return PASS;
        }
        line.device.answer()?;
    }
    PASS
}

/// The operations that are answered, with receive buffers of this many bytes.
fn small(device: &mut Device, len: u32) -> Verdict {
    device.live(0)?;
    let lens = [len; 8];
    post(device, &lens);
    let mut line = Line::without_buffers(device)?;
    for port in [NOBODY, SERVED, NOBODY] {
        let header = line.header(op::REQUEST, port);
        line.send(&header, &[])?;
    }
    let header = line.header(op::RW, SERVED);
    line.write(0, 100, header)?;
    line.device.settle();
    bounded(line.device, &lens)?;
    PASS
}

/// One receive buffer, and a packet for it.
fn receive(device: &mut Device, buffer: impl Fn(&Device) -> Descriptor) -> Verdict {
    super::receive_with(device, buffer)?;
    let line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    let packet = line.place(&header, &[]);
    link(line.device.ring().descriptors(), 0, &[packet]);
    line.device.offer(&[0]);
    survived(device)
}

fn event_buffers(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    let ring = attach_events(device, 1);
    device.transport.start();
    device.kick(EVENT);
    device.plain()?;
    ensure!(ring.used() == 0, "an event without a reason");
    PASS
}

fn resets(device: &mut Device) -> Result<guest::tap::Point, Failure> {
    for _ in 0..20 {
        let mut line = Line::open(device)?;
        for from in 0..5 {
            needed!(line.connect(OWN + from, 1 << 16)?, "nobody serves port 52");
            let header = line.header(op::RW, SERVED);
            line.write(0, 1000, Header { src_port: OWN + from, ..header })?;
        }
        device.reset()?;
    }
    PASS
}
