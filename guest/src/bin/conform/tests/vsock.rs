//! The socket device (§5.10). A program of the host must send back what it receives on port 52.
//! Without one the tests that need it are skipped.

mod line;

pub(super) use line::{Line, NOBODY, OWN, SERVED};

use guest::bare::{Descriptor, INDIRECT, Ring, describe, link};
use guest::mmio::offset;
use guest::tap::{Failure, Verdict};
use guest::virtio::feature;
use guest::vsock::packet::{HEADER, Header, op, shutdown};
use guest::{Registers, ensure};

use super::net::{place, post};
use super::{PASS, SOCKET, Test, needed, test};
use crate::device::{Device, until};
use crate::plain::readable;
use line::{ANSWER, BUFFERS, ROOM, SHORT, SHORT_LEN, bytes_from};

/// The queues (§5.10.2).
pub(super) const RECEIVE: u16 = 0;
pub(super) const EVENT: u16 = 2;
/// Offset of the event queue and its buffers, and of tables of descriptors.
pub(super) const EVENTS: usize = 0x3_0000;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.10.2", "there is a receive, a transmit and an event queue", SOCKET, three_queues),
    test("5.10.4", "guest_cid is that of a guest, also before FEATURES_OK", SOCKET, guest_cid),
    test("5.10.4", "the configuration is read-only", SOCKET, read_only),
    test("5.10.6.5", "a REQUEST for a port that nobody serves is answered by an RST", SOCKET, |device| refused(device, |header| header)),
    test("5.10.6.2.1", "an unknown type is answered by an RST of that type", SOCKET, |device| [3, 0, 0xffff].iter().try_fold((), |(), kind| refused(device, |header| Header { kind: *kind, ..header }).map(|_| ())).and(PASS)),
    test("5.10.6.5", "what belongs to no connection is answered by an RST", SOCKET, |device| [0, 2, 4, 5, 6, 7, 8, 0xffff].iter().try_fold((), |(), op| refused(device, |header| Header { op: *op, ..header }).map(|_| ())).and(PASS)),
    test("5.10.6.5", "an RST is not answered", SOCKET, reset_alone),
    test("5.10.6", "the reply is in the buffer that came first, with nothing behind it", SOCKET, in_order),
    test("2.7.4.2", "a header cut into two at every place", SOCKET, cut),
    test("2.7.4.2", "a header in buffers of one byte", SOCKET, bytes),
    test("2.7.5.3", "INDIRECT_DESC: a header in a table", SOCKET, table),
    test("2.7.4.2", "a reply in buffers of one byte", SOCKET, reply_in_bytes),
    test("5.10.6.1", "packets are taken without receive buffers, and the replies come later", SOCKET, replies_later),
    test("5.10.6.7", "event buffers wait, and the other queues work", SOCKET, events),
    test("5.10.6.5", "a REQUEST is answered by a RESPONSE with credit", SOCKET, response),
    test("5.10.6.4", "data go to the host and come back", SOCKET, |device| exchange(device, 0)),
    test("5.10.6.4", "bytes behind the length of a packet are ignored", SOCKET, |device| exchange(device, 100)),
    test("5.10.6.4", "data in buffers that are cut at odd places", SOCKET, data_in_pieces),
    test("5.10.6.3", "no more arrives than there is credit for", SOCKET, credit),
    test("5.10.6.3", "nothing arrives without credit", SOCKET, no_credit),
    test("5.10.6.3", "a smaller buffer than is in flight is no credit", SOCKET, shrunk),
    test("5.10.6.3", "a CREDIT_REQUEST is answered by a CREDIT_UPDATE", SOCKET, credit_request),
    test("5.10.6.3", "fwd_cnt counts what was sent, four times the buffer", SOCKET, forwarded),
    test("5.10.6.5", "a SHUTDOWN of both directions is answered by an RST", SOCKET, shut_down),
    test("5.10.6.5", "after a SHUTDOWN of sending, the data come back and then a SHUTDOWN", SOCKET, half),
    test("5.10.6.5", "after an RST the ports are free again", SOCKET, |device| { for _ in 0..5 { shut_down(device)?; } PASS }),
    test("5.10.6.2", "16 connections to one port each get their own bytes", SOCKET, side_by_side),
    test("2.4.1", "a reset ends the connections", SOCKET, reset_ends),
];

fn three_queues(device: &mut Device) -> Verdict {
    for index in RECEIVE..=EVENT {
        device.registers.write(offset::QUEUE_SEL, index.into());
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        ensure!(max > 0, "no queue {index}");
    }
    PASS
}

fn guest_cid(device: &mut Device) -> Verdict {
    let live = device.transport.config_u64(0)?;
    let reserved = live < 3 || live >= u64::from(u32::MAX);
    ensure!(!reserved, "guest_cid {live:#x}");
    device.reset()?;
    let early = device.transport.config_u64(0)?;
    ensure!(live == early, "{early:#x} before, {live:#x} after");
    PASS
}

fn read_only(device: &mut Device) -> Verdict {
    let before = device.transport.config_u64(0)?;
    device.registers.write(offset::CONFIG, 9);
    device.registers.write_u8(offset::CONFIG, 9);
    let after = device.transport.config_u64(0)?;
    ensure!(before == after, "{before:#x}, then {after:#x}");
    PASS
}

/// Sends a REQUEST, changed, for a port that nobody serves.
fn refused(device: &mut Device, change: impl Fn(Header) -> Header) -> Verdict {
    let mut line = Line::open(device)?;
    let header = change(line.header(op::REQUEST, NOBODY));
    line.send(&header, &[])?;
    line.is_reset(&header)?;
    PASS
}

fn reset_alone(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    let header = line.header(op::RST, NOBODY);
    line.send(&header, &[])?;
    line.stays_quiet()?;
    PASS
}

fn in_order(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    for nth in 0..40 {
        let header = Header { src_port: OWN + nth, ..header };
        line.send(&header, &[])?;
        let [ring, _] = &line.device.rings;
        ensure!(until(ANSWER, || ring.used() != line.taken), "no packet");
        let (head, len) = ring.element(line.taken);
        ensure!(head == nth % 16, "buffer {head} is number {nth}");
        ensure!(len == 44, "len {len} for an RST");
        line.is_reset(&header)?;
    }
    PASS
}

/// Sends a REQUEST in buffers that `change` makes of it.
fn in_pieces(
    device: &mut Device,
    change: impl Fn(&Device, Descriptor, &mut [Descriptor; HEADER]) -> usize,
) -> Result<(), Failure> {
    let mut line = Line::open(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    let whole = line.place(&header, &[]);
    let mut pieces = [whole; HEADER];
    let count = change(line.device, whole, &mut pieces);
    line.send_by(pieces.get(..count).unwrap_or_default())?;
    line.is_reset(&header)
}

fn single(whole: Descriptor) -> [Descriptor; HEADER] {
    core::array::from_fn(|at| Descriptor::readable(whole.address + at as u64, 1))
}

fn cut(device: &mut Device) -> Verdict {
    for at in 1..44 {
        in_pieces(device, |_, whole, pieces| {
            let rest = Descriptor::readable(whole.address + u64::from(at), whole.len - at);
            let first = Descriptor { len: at, ..whole };
            pieces
                .iter_mut()
                .zip([first, rest])
                .for_each(|(to, it)| *to = it);
            2
        })?;
    }
    PASS
}

fn bytes(device: &mut Device) -> Verdict {
    in_pieces(device, |_, whole, pieces| {
        *pieces = single(whole);
        HEADER
    })?;
    PASS
}

fn table(device: &mut Device) -> Verdict {
    let accepted = device.live(feature::INDIRECT_DESC)?;
    let indirect = accepted & feature::INDIRECT_DESC != 0;
    needed!(indirect, "INDIRECT_DESC is not offered");
    post(device, &BUFFERS);
    let mut line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    let whole = line.place(&header, &[]);
    let table = line.device.memory.slice(EVENTS..EVENTS + 16 * HEADER);
    link(&table, 0, &single(whole));
    line.send_by(&[readable(&table).with(INDIRECT)])?;
    line.is_reset(&header)?;
    PASS
}

/// 64 buffers of one byte are a chain for the reply.
fn reply_in_bytes(device: &mut Device) -> Verdict {
    device.live_with(64)?;
    needed!(device.ring().size() == 64, "the queue is too small");
    post(device, &[]);
    let at = place(0);
    device
        .memory
        .slice(at..at + ROOM)
        .fill(crate::device::BLANK);
    let [ring, _] = &device.rings;
    let single = |nth: usize| Descriptor::writable(device.at(at + nth), 1);
    let buffers: [Descriptor; 64] = core::array::from_fn(single);
    link(ring.descriptors(), 0, &buffers);
    ring.offer(&[0]);
    device.kick(RECEIVE);
    let mut line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    line.send(&header, &[])?;
    line.is_reset(&header)?;
    PASS
}

fn replies_later(device: &mut Device) -> Verdict {
    device.live(0)?;
    let mut line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    for nth in 0..16 {
        line.send(&Header { src_port: OWN + nth, ..header }, &[])?;
    }
    post(line.device, &BUFFERS);
    for nth in 0..16 {
        line.is_reset(&Header { src_port: OWN + nth, ..header })?;
    }
    PASS
}

/// Attaches the event queue, with two buffers of this many bytes.
pub(super) fn attach_events(device: &Device, len: u32) -> Ring {
    let memory = &device.memory;
    let ring = Ring::new(&memory.slice(EVENTS..EVENTS + Ring::bytes(4)), 4);
    ring.attach(&device.registers, EVENT);
    for index in 0..2 {
        let buffer = EVENTS + Ring::bytes(4) + 64 * usize::from(index);
        describe(
            ring.descriptors(),
            index,
            Descriptor::writable(device.at(buffer), len),
        );
    }
    ring.offer(&[0, 1]);
    ring
}

fn events(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    let events = attach_events(device, 8);
    device.transport.start();
    device.kick(EVENT);
    post(device, &BUFFERS);
    let mut line = Line::without_buffers(device)?;
    let header = line.header(op::REQUEST, NOBODY);
    line.send(&header, &[])?;
    line.is_reset(&header)?;
    line.stays_quiet()?;
    ensure!(events.used() == 0, "an event without a reason");
    PASS
}

fn response(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    PASS
}

/// Sends bytes, with others behind those that count.
fn exchange(device: &mut Device, behind: usize) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    for round in 0..5 {
        let at = round * (SHORT - behind);
        let bytes: [u8; SHORT] = bytes_from(at);
        let len = u32::try_from(SHORT - behind).unwrap_or(0);
        let header = Header { len, ..line.header(op::RW, SERVED) };
        line.send(&header, &bytes)?;
        line.read(at, at + SHORT - behind)?;
    }
    line.stays_quiet()?;
    PASS
}

fn data_in_pieces(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let bytes: [u8; SHORT] = bytes_from(0);
    let header = Header { len: SHORT_LEN, ..line.header(op::RW, SERVED) };
    let whole = line.place(&header, &bytes);
    let mut start = 0;
    let pieces = [1, 42, 2, 333, 1, 665].map(|len| {
        let piece = Descriptor::readable(whole.address + start, len);
        start += u64::from(len);
        piece
    });
    line.send_by(&pieces)?;
    line.read(0, SHORT)?;
    PASS
}

fn credit(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 100)?, "nobody serves port 52");
    let header = Header { buf_alloc: 100, ..line.header(op::RW, SERVED) };
    line.write(0, SHORT, header)?;
    line.read(0, 100)?;
    line.stays_quiet()?;
    // 30 bytes were taken, and then the buffer became larger.
    for (buf_alloc, fwd_cnt, end) in [(100, 30, 130), (500, 30, 530), (2000, 530, SHORT)] {
        let update = line.header(op::CREDIT_UPDATE, SERVED);
        line.send(&Header { buf_alloc, fwd_cnt, ..update }, &[])?;
        let before = [100, 130, 530].into_iter().filter(|it| *it < end).max();
        line.read(before.unwrap_or(0), end)?;
        line.stays_quiet()?;
    }
    PASS
}

fn no_credit(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 0)?, "nobody serves port 52");
    let header = Header { buf_alloc: 0, ..line.header(op::RW, SERVED) };
    line.write(0, SHORT, header)?;
    line.stays_quiet()?;
    let update = line.header(op::CREDIT_UPDATE, SERVED);
    line.send(&update, &[])?;
    line.read(0, SHORT)?;
    PASS
}

fn shrunk(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 500)?, "nobody serves port 52");
    let header = Header { buf_alloc: 500, ..line.header(op::RW, SERVED) };
    line.write(0, SHORT, header)?;
    line.read(0, 500)?;
    let update = line.header(op::CREDIT_UPDATE, SERVED);
    line.send(&Header { buf_alloc: 400, ..update }, &[])?;
    line.stays_quiet()?;
    line.send(&Header { fwd_cnt: 500, ..update }, &[])?;
    line.read(500, SHORT)?;
    PASS
}

fn credit_request(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = line.header(op::RW, SERVED);
    line.write(0, SHORT, header)?;
    line.read(0, SHORT)?;
    line.send(&line.header(op::CREDIT_REQUEST, SERVED), &[])?;
    let found = line.next()?.header;
    ensure!(found.op == op::CREDIT_UPDATE, "operation {}", found.op);
    ensure!(found.buf_alloc > 0, "no credit");
    // The host had it all, since it came back.
    let taken = found.fwd_cnt;
    ensure!(taken == SHORT_LEN, "{taken} of {SHORT} bytes forwarded");
    PASS
}

fn forwarded(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    line.send(&line.header(op::CREDIT_REQUEST, SERVED), &[])?;
    let alloc = usize::try_from(line.next()?.header.buf_alloc).unwrap_or(0);
    let much = (4 * alloc).min(1 << 19).next_multiple_of(SHORT);
    for at in (0..much).step_by(SHORT) {
        let fwd_cnt = u32::try_from(at).unwrap_or(0);
        let header = Header { fwd_cnt, ..line.header(op::RW, SERVED) };
        line.write(at, SHORT, header)?;
        line.read(at, at + SHORT)?;
    }
    line.send(&line.header(op::CREDIT_REQUEST, SERVED), &[])?;
    loop {
        let found = line.next()?.header;
        ensure!(found.op == op::CREDIT_UPDATE, "operation {}", found.op);
        if usize::try_from(found.fwd_cnt) == Ok(much) {
            return PASS;
        }
    }
}

fn shut_down(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    for _ in 0..2 {
        let header = line.header(op::SHUTDOWN, SERVED);
        let header = Header { flags: shutdown::BOTH, ..header };
        line.send(&header, &[])?;
        line.is_reset(&header)?;
        ensure!(line.connect(OWN, 1 << 16)?, "it is refused now");
    }
    PASS
}

fn half(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let header = line.header(op::RW, SERVED);
    line.write(0, SHORT, header)?;
    let header = line.header(op::SHUTDOWN, SERVED);
    line.send(&Header { flags: shutdown::SEND, ..header }, &[])?;
    line.read(0, SHORT)?;
    let Header { op, flags, .. } = line.next_event()?.header;
    ensure!(op == op::SHUTDOWN, "operation {op}");
    ensure!(flags & shutdown::SEND != 0, "flags {flags:#x}");
    PASS
}

fn side_by_side(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    for from in 0..16 {
        needed!(line.connect(OWN + from, 1 << 16)?, "nobody serves port 52");
    }
    // The next one's first, so that none waits for another.
    for from in (0..16).rev() {
        let header = line.header(op::RW, SERVED);
        let header = Header { src_port: OWN + from, ..header };
        line.write(from as usize, SHORT, header)?;
        let mut at = from as usize;
        while at < from as usize + SHORT {
            let packet = line.next_event()?;
            let Header { dst_port, op, .. } = packet.header;
            ensure!(
                (dst_port, op) == (OWN + from, op::RW),
                "{:?}",
                packet.header
            );
            let expected: [u8; ROOM] = bytes_from(at);
            ensure!(expected.starts_with(packet.data()), "other bytes");
            at += packet.data().len();
        }
    }
    PASS
}

fn reset_ends(device: &mut Device) -> Verdict {
    let mut line = Line::open(device)?;
    needed!(line.connect(OWN, 1 << 16)?, "nobody serves port 52");
    let mut line = Line::open(device)?;
    let header = line.header(op::RW, SERVED);
    line.write(0, SHORT, header)?;
    line.is_reset(&header)?;
    ensure!(line.connect(OWN, 1 << 16)?, "it is refused now");
    PASS
}
