//! The network device (§5.1). Received frames are those of the network: a machine there must answer
//! ARP, as the host's side of a tap interface does. Without one the tests that need them are skipped.

use guest::bare::{Descriptor, INDIRECT, describe, link};
use guest::mmio::offset;
use guest::net::{HEADER, features};
use guest::tap::{Failure, Verdict};
use guest::virtio::feature;
use guest::{Registers, ensure};

use super::life::reset_queue;
use super::{NET, PASS, Test, needed, test};
use crate::device::{BLANK, DATA, Device, UNIT, until};
use crate::plain::{FRAME, frame, readable};

/// Feature bits (§5.1.3).
const CSUM: u64 = 1 << 0;
/// The receive queue (§5.1.2), and the transmit queue.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Offsets of fields of the configuration space (§5.1.4).
mod field {
    pub(super) const MAC: usize = 0x100;
    pub(super) const STATUS: usize = 0x106;
    pub(super) const MTU: usize = 0x10a;
}
/// Offset of received frames in the buffers, and the bytes there for each.
const AT: usize = 0x1_0000;
const ROOM: usize = 2048;
/// Bytes of a header and an ARP reply, of a header and the addresses, and of a header and any frame.
const REPLY: usize = HEADER + 42;
const ADDRESSES: usize = HEADER + 12;
const LONGEST: u32 = 1526;
/// Longest time for an answer, in microseconds.
const ANSWER: u64 = 2_000_000;
/// This machine and one that may answer: by the documentation, and in QEMU's user network.
const PEERS: [([u8; 4], [u8; 4]); 2] = [
    ([192, 0, 2, 2], [192, 0, 2, 1]),
    ([10, 0, 2, 15], [10, 0, 2, 2]),
];
/// Why a test is skipped.
const SILENCE: &str = "nobody answers ARP";

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.1.2", "there is a receive and a transmit queue", NET, two_queues),
    test("5.1.4", "MAC: the address is that of one card, also before FEATURES_OK", NET, address),
    test("5.1.4", "STATUS: the link is up, and no unknown bit is set", NET, link_status),
    test("5.1.4.1", "MTU: at least 68", NET, mtu),
    test("5.1.4", "the configuration is read-only", NET, read_only),
    test("5.1.6.2", "header and frame in one buffer", NET, |device| cut(device, FRAME)),
    test("5.1.6.2", "header and frame in two buffers", NET, |device| cut(device, HEADER)),
    test("2.7.4.2", "header and frame cut into two at every place", NET, |device| (1..FRAME).try_fold((), |(), at| cut(device, at).map(|_| ())).and(PASS)),
    test("2.7.4.2", "header and frame in buffers of one byte", NET, bytes),
    test("2.7.5.3", "INDIRECT_DESC: header and frame in a table", NET, table),
    test("5.1.6.2", "CSUM: a frame whose checksum is left to the device", NET, checksum),
    test("5.1.6.2", "frames need no receive buffers", NET, |device| { device.live(0)?; cut(device, FRAME) }),
    test("3.1.1", "frames are sent without a receive queue", NET, transmit_only),
    test("3.1.1", "nothing breaks without a transmit queue", NET, receive_only),
    test("5.1.6.4", "a received frame: header, addresses and length", NET, |device| received(device, 0)),
    test("5.1.6.4.1", "without MRG_RXBUF num_buffers is 1", NET, |device| one_buffer(device, 0)),
    test("5.1.6.4.1", "MRG_RXBUF: num_buffers is 1 for a frame in one buffer", NET, |device| one_buffer(device, features::MRG_RXBUF)),
    test("5.1.6.4.1", "MRG_RXBUF: a frame in several buffers, used together", NET, merged),
    test("2.7.4.2", "a frame received into buffers of one byte", NET, received_bytes),
    test("5.1.6.4", "frames fill the receive buffers in order", NET, |device| in_order(device).map(|_| ()).and(PASS)),
    test("2.6.1", "RING_RESET: a receive queue that was reset gets nothing, the transmit queue works", NET, ring_reset),
];

fn two_queues(device: &mut Device) -> Verdict {
    for index in [RECEIVE, TRANSMIT] {
        device.registers.write(offset::QUEUE_SEL, index.into());
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        ensure!(max > 0, "no queue {index}");
    }
    PASS
}

fn mac(device: &Device) -> [u8; 6] {
    [0, 1, 2, 3, 4, 5].map(|at| device.registers.read_u8(field::MAC + at))
}

fn address(device: &mut Device) -> Verdict {
    let accepted = device.live(features::MAC)?;
    needed!(accepted & features::MAC != 0, "MAC is not offered");
    let live = mac(device);
    let [first, ..] = live;
    ensure!(first & 1 == 0 && live != [0; 6], "{live:x?}");
    device.reset()?;
    let early = mac(device);
    ensure!(live == early, "{early:x?} before, {live:x?} after");
    PASS
}

fn link_status(device: &mut Device) -> Verdict {
    let accepted = device.live(features::STATUS)?;
    needed!(accepted & features::STATUS != 0, "STATUS is not offered");
    let status = device.registers.read_u16(field::STATUS);
    ensure!(status == 1, "status {status:#x}");
    PASS
}

fn mtu(device: &mut Device) -> Verdict {
    let accepted = device.live(features::MTU)?;
    needed!(accepted & features::MTU != 0, "MTU is not offered");
    let mtu = device.registers.read_u16(field::MTU);
    ensure!(mtu >= 68, "MTU {mtu}");
    PASS
}

fn read_only(device: &mut Device) -> Verdict {
    device.live(features::MAC)?;
    let words = || [0, 4, 8].map(|at| device.registers.read(field::MAC + at));
    let before = words();
    for at in [0, 4, 8] {
        device.registers.write(field::MAC + at, 0x5a5a_5a5a);
    }
    for at in 0..12 {
        device.registers.write_u8(field::MAC + at, 0x5a);
    }
    let after = words();
    ensure!(before == after, "{before:x?}, then {after:x?}");
    PASS
}

/// Sends what is in these buffers.
fn send(device: &mut Device, buffers: &[Descriptor]) -> Verdict {
    link(device.ring().descriptors(), 0, buffers);
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    ensure!(written == 0, "len {written}");
    PASS
}

/// Sends a frame, cut into two buffers there.
fn cut(device: &mut Device, at: usize) -> Verdict {
    device.memory.write(DATA, &frame());
    let part = |from, to| readable(&device.memory.slice(DATA + from..DATA + to));
    let parts = [part(0, at), part(at, FRAME)];
    let count = if at == FRAME { 1 } else { 2 };
    send(device, parts.get(..count).unwrap_or_default())
}

/// A chain of buffers of one byte, as many as the frame is long.
fn single(device: &Device, start: usize) -> [Descriptor; FRAME] {
    core::array::from_fn(|at| Descriptor::readable(device.at(start + at), 1))
}

fn bytes(device: &mut Device) -> Verdict {
    device.live_with(128)?;
    needed!(
        usize::from(device.ring().size()) > FRAME,
        "the queue is too small"
    );
    device.memory.write(DATA, &frame());
    let single = single(device, DATA);
    send(device, &single)
}

fn table(device: &mut Device) -> Verdict {
    let accepted = device.live(feature::INDIRECT_DESC)?;
    let indirect = accepted & feature::INDIRECT_DESC != 0;
    needed!(indirect, "INDIRECT_DESC is not offered");
    device.memory.write(DATA, &frame());
    let table = device.memory.slice(AT..AT + 16 * FRAME);
    link(&table, 0, &single(device, DATA));
    describe(
        device.ring().descriptors(),
        0,
        readable(&table).with(INDIRECT),
    );
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    ensure!(written == 0, "len {written}");
    PASS
}

fn checksum(device: &mut Device) -> Verdict {
    needed!(device.live(CSUM)? & CSUM != 0, "CSUM is not offered");
    let mut frame = frame();
    // NEEDS_CSUM; csum_start 14 and csum_offset 16, in a frame of 60 bytes.
    for (at, byte) in [(0, 1), (6, 14), (8, 16)] {
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
        }
    }
    device.memory.write(DATA, &frame);
    let all = readable(&device.memory.slice(DATA..DATA + FRAME));
    send(device, &[all])
}

fn transmit_only(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    device.replace_rings(8);
    device.ring().attach(&device.registers, TRANSMIT);
    device.transport.start();
    cut(device, FRAME)
}

fn receive_only(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    device.replace_rings(8);
    let [ring, _] = &device.rings;
    ring.attach(&device.registers, RECEIVE);
    device.transport.start();
    post(device, &[LONGEST; 4]);
    device.kick(TRANSMIT);
    device.transport.alive()?;
    PASS
}

/// Gives the device receive buffers of these lengths, each in a descriptor of its own.
pub(super) fn post(device: &Device, lens: &[u32]) {
    let [ring, _] = &device.rings;
    device.memory.slice(AT..AT + lens.len() * ROOM).fill(BLANK);
    for (index, len) in (0..).zip(lens) {
        let buffer = Descriptor::writable(device.at(place(index)), *len);
        link(ring.descriptors(), index, &[buffer]);
        ring.offer(&[index]);
    }
    device.kick(RECEIVE);
}

/// The offset of receive buffer `index`.
pub(super) fn place(index: u16) -> usize {
    AT + ROOM * usize::from(index)
}

/// Checks that no receive buffer got more bytes than it has.
pub(super) fn bounded(device: &Device, lens: &[u32]) -> Result<(), Failure> {
    let [ring, _] = &device.rings;
    for (index, len) in (0..).zip(lens) {
        let end = place(index) + usize::try_from(*len).unwrap_or(0);
        let blank = device.is_blank(end..place(index) + ROOM);
        ensure!(blank, "bytes after buffer {index} changed");
        let (head, written) = ring.element(index);
        let known = usize::try_from(head).ok().and_then(|head| lens.get(head));
        let fits = index >= ring.used() || known.is_some_and(|len| written <= *len);
        ensure!(fits, "len {written} for buffer {head}");
    }
    Ok(())
}

/// Asks every peer by ARP for its address.
pub(super) fn ask(device: &mut Device) -> Result<(), Failure> {
    let mac = mac(device);
    for (here, there) in PEERS {
        let mut frame = frame();
        let arp = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
        let parts = [&mac[..], &arp, &mac, &here, &[0; 6], &there];
        let bytes = parts.into_iter().flatten();
        for (place, byte) in frame.iter_mut().skip(HEADER + 6).zip(bytes) {
            *place = *byte;
        }
        device.memory.write(DATA, &frame);
        let all = readable(&device.memory.slice(DATA..DATA + FRAME));
        send(device, &[all])?;
    }
    Ok(())
}

/// Asks, and waits for `count` used receive buffers. Returns whether they came.
fn answered(device: &mut Device, count: u16) -> Result<bool, Failure> {
    ask(device)?;
    let [ring, _] = &device.rings;
    Ok(until(ANSWER, || ring.used() >= count))
}

/// Starts with these features and four receive buffers, of which the first gets a frame. Returns the
/// frame's length with its header, or `None` if nobody answers.
fn first(device: &mut Device, wanted: u64) -> Result<Option<usize>, Failure> {
    device.live(wanted)?;
    post(device, &[LONGEST; 4]);
    if !answered(device, 1)? {
        return Ok(None);
    }
    let [ring, _] = &device.rings;
    let (head, len) = ring.element(0);
    ensure!(head == 0, "the first is buffer {head}");
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    ensure!(
        (REPLY..=LONGEST as usize).contains(&len),
        "len {len} for a frame"
    );
    Ok(Some(len))
}

fn received(device: &mut Device, wanted: u64) -> Verdict {
    let Some(len) = first(device, wanted)? else {
        return Ok(guest::tap::Point::Skip(SILENCE));
    };
    let mut bytes = [0; ADDRESSES];
    device.memory.read(AT, &mut bytes);
    let [flags, gso_type, _, _, _, _, _, _, _, _, _, _, to @ ..] = bytes;
    ensure!(
        (flags, gso_type) == (0, 0),
        "flags {flags:#x} and gso_type {gso_type:#x} without offloads"
    );
    let ours = to.starts_with(&mac(device));
    let [group, ..] = to;
    ensure!(ours || group & 1 != 0, "it is for {to:x?}");
    ensure!(
        device.is_blank(AT + len..AT + ROOM),
        "bytes after the frame changed"
    );
    PASS
}

/// num_buffers of the frame in buffer `index`.
fn num_buffers(device: &Device, index: u16) -> u16 {
    let at = place(index) + HEADER - 2;
    u16::from_le_bytes([device.byte(at), device.byte(at + 1)])
}

fn one_buffer(device: &mut Device, wanted: u64) -> Verdict {
    needed!(device.live(wanted)? & wanted == wanted, "not offered");
    needed!(first(device, wanted)?.is_some(), "nobody answers ARP");
    let found = num_buffers(device, 0);
    ensure!(found == 1, "num_buffers {found}");
    PASS
}

fn merged(device: &mut Device) -> Verdict {
    const LEN: u32 = 20;
    let accepted = device.live(features::MRG_RXBUF)?;
    needed!(
        accepted & features::MRG_RXBUF != 0,
        "MRG_RXBUF is not offered"
    );
    post(device, &[LEN; 16]);
    needed!(answered(device, 1)?, "nobody answers ARP");
    let [ring, _] = &device.rings;
    let used = ring.used();
    let count = num_buffers(device, 0);
    ensure!(count >= 3, "num_buffers {count}, buffers of {LEN} bytes");
    ensure!(count <= used, "num_buffers {count}, but {used} used");
    for slot in 0..count {
        let (head, len) = ring.element(slot);
        ensure!(head == u32::from(slot), "buffer {head} is number {slot}");
        let last = slot + 1 == count;
        ensure!(
            len == LEN || last && (1..LEN).contains(&len),
            "len {len} of buffer {slot} of {count}"
        );
        let end = place(slot) + LEN as usize;
        ensure!(
            device.is_blank(end..place(slot) + ROOM),
            "bytes after buffer {slot} changed"
        );
    }
    PASS
}

fn received_bytes(device: &mut Device) -> Verdict {
    device.live_with(128)?;
    needed!(
        usize::from(device.ring().size()) > FRAME,
        "the queue is too small"
    );
    device.memory.slice(AT..AT + ROOM).fill(BLANK);
    let [ring, _] = &device.rings;
    // As many descriptors as the frame has bytes, and one for the rest.
    let mut buffers = [Descriptor::writable(device.at(AT + FRAME), LONGEST); FRAME + 1];
    for (buffer, single) in buffers.iter_mut().zip(single(device, AT)) {
        *buffer = Descriptor::writable(single.address, 1);
    }
    link(ring.descriptors(), 0, &buffers);
    ring.offer(&[0]);
    device.kick(RECEIVE);
    needed!(answered(device, 1)?, "nobody answers ARP");
    let [ring, _] = &device.rings;
    let (_, len) = ring.element(0);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    ensure!((REPLY..ROOM).contains(&len), "len {len}");
    ensure!(num_buffers(device, 0) == 1, "num_buffers is not 1");
    ensure!(
        device.is_blank(AT + len..AT + ROOM),
        "bytes after the frame changed"
    );
    PASS
}

fn in_order(device: &mut Device) -> Verdict {
    device.live(0)?;
    post(device, &[LONGEST; 16]);
    needed!(answered(device, 1)?, "nobody answers ARP");
    for _ in 0..7 {
        ask(device)?;
    }
    let [ring, _] = &device.rings;
    ensure!(until(ANSWER, || ring.used() >= 8), "{} of 8", ring.used());
    for slot in 0..8 {
        let (head, _) = ring.element(slot);
        ensure!(head == u32::from(slot), "buffer {head} is number {slot}");
        ensure!(!device.is_blank(place(slot)..place(slot) + REPLY), "empty");
    }
    PASS
}

fn ring_reset(device: &mut Device) -> Verdict {
    let accepted = device.live(feature::RING_RESET)?;
    let offered = accepted & feature::RING_RESET != 0;
    needed!(offered, "RING_RESET is not offered");
    post(device, &[LONGEST; 4]);
    needed!(answered(device, 1)?, "nobody answers ARP");
    reset_queue(device, RECEIVE)?;
    let [ring, _] = &device.rings;
    let before = ring.used();
    ask(device)?;
    let [ring, _] = &device.rings;
    ensure!(
        !until(20_000, || ring.used() != before),
        "a buffer was used after the reset of its queue"
    );
    ensure!(device.is_blank(0..UNIT / 2), "other bytes changed");
    PASS
}
