//! The console device (§5.3). Only the host sees whether its output arrives: each test of output
//! sends lines that begin with "conform:".

use guest::bare::{Descriptor, Ring, link};
use guest::mmio::{INTERRUPT_CONFIG, offset};
use guest::tap::{Failure, Verdict};
use guest::virtio::status;
use guest::{Registers, ensure};

use super::{PASS, Test, needed, test};
use crate::device::{BLANK, DATA, Device, Kind, until};

/// Feature bits (§5.3.3).
const SIZE: u64 = 1 << 0;
const MULTIPORT: u64 = 1 << 1;
const EMERG_WRITE: u64 = 1 << 2;

/// Offsets of fields of the configuration space (§5.3.4).
mod field {
    pub(super) const COLS: usize = 0x100;
    pub(super) const ROWS: usize = 0x102;
    pub(super) const MAX_NR_PORTS: usize = 0x104;
    pub(super) const EMERG_WR: usize = 0x108;
}

/// The receive queue of port 0.
const RECEIVE: u16 = 0;
/// Longest time for input to arrive, in microseconds.
const TYPING: u64 = 1_000_000;
/// Offset of input in the buffers.
const INPUT: usize = 0x1_0000;
/// Events of the control queues (§5.3.6.2).
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;

const CONSOLE: &[Kind] = &[Kind::Console];

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.3.6", "what is typed arrives in a receive buffer", CONSOLE, typed),
    test("5.3.2", "port 0 has a receive and a transmit queue", CONSOLE, two_queues),
    test("5.3.6", "an output buffer comes back with a used length of 0", CONSOLE, |device| send(device, &[b"conform: one buffer\n"])),
    test("5.3.6", "output in several buffers", CONSOLE, |device| send(device, &[b"conform: ", b"three", b" buffers\n"])),
    test("5.3.6", "4 KiB of output", CONSOLE, |device| long(device, 4096)),
    test("5.3.6", "64 KiB of output", CONSOLE, |device| long(device, 0x1_0000)),
    test("5.3.6", "output needs no receive buffers", CONSOLE, |device| { device.live(0)?; send(device, &[b"conform: no input\n"]) }),
    test("5.3.6", "receive buffers wait while nothing is typed", CONSOLE, waiting),
    test("5.3.4", "SIZE: columns and rows can be read, also before FEATURES_OK", CONSOLE, size),
    test("5.3.4", "EMERG_WRITE: a character by the register, before any set-up", CONSOLE, |device| { device.reset()?; emergency(device) }),
    test("5.3.4", "EMERG_WRITE: a character by the register of a live device", CONSOLE, emergency),
    test("5.3.4", "MULTIPORT: there is a port, and two queues for it and for control", CONSOLE, ports),
    test("5.3.6.2", "MULTIPORT: DEVICE_READY is answered by DEVICE_ADD", CONSOLE, added),
    test("5.3.6.2", "MULTIPORT: a message of an unknown port or event does no harm", CONSOLE, strange_messages),
    test("5.3.5", "declined MULTIPORT: port 0 works", CONSOLE, |device| { device.live(SIZE)?; send(device, &[b"conform: one port\n"]) }),
];

/// Gives the device one receive buffer of `len` bytes.
fn receive(device: &Device, len: u32) {
    device.memory.slice(INPUT..INPUT + 256).fill(BLANK);
    let [ring, _] = &device.rings;
    link(
        ring.descriptors(),
        0,
        &[Descriptor::writable(device.at(INPUT), len)],
    );
    ring.offer(&[0]);
    device.kick(RECEIVE);
}

fn typed(device: &mut Device) -> Verdict {
    receive(device, 64);
    let [ring, _] = &device.rings;
    needed!(until(TYPING, || ring.used() != 0), "no input was typed");
    let (_, written) = ring.element(0);
    let written = usize::try_from(written).unwrap_or(usize::MAX);
    ensure!((1..=64).contains(&written), "len {written} for 64 bytes");
    ensure!(
        device.is_blank(INPUT + 64..INPUT + 256),
        "bytes after the buffer changed"
    );
    ensure!(
        !device.is_blank(INPUT..INPUT + written),
        "nothing was written"
    );
    PASS
}

fn two_queues(device: &mut Device) -> Verdict {
    for index in [0, 1] {
        device.registers.write(offset::QUEUE_SEL, index);
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        ensure!(max > 0, "no queue {index}");
    }
    PASS
}

/// Sends text split into these pieces.
fn send(device: &mut Device, pieces: &[&[u8]]) -> Verdict {
    let mut buffers = [Descriptor::default(); 3];
    let mut at = DATA;
    for (piece, buffer) in pieces.iter().zip(&mut buffers) {
        device.memory.write(at, piece);
        *buffer = Descriptor::readable(device.at(at), u32::try_from(piece.len()).unwrap_or(0));
        at += piece.len();
    }
    let buffers = buffers.get(..pieces.len()).unwrap_or_default();
    link(device.ring().descriptors(), 0, buffers);
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    ensure!(written == 0, "len {written}");
    PASS
}

/// Sends this many bytes, in lines of 64.
fn long(device: &mut Device, len: usize) -> Verdict {
    let text = device.memory.slice(INPUT..INPUT + len);
    text.fill(b'-');
    for line in (0..len).step_by(64) {
        text.write(line, b"conform: ");
        text.write(line + 63, b"\n");
    }
    let buffer = Descriptor::readable(text.bus(), u32::try_from(len).unwrap_or(0));
    link(device.ring().descriptors(), 0, &[buffer]);
    device.offer(&[0]);
    device.answer()?;
    PASS
}

fn waiting(device: &mut Device) -> Verdict {
    receive(device, 64);
    let [ring, _] = &device.rings;
    needed!(!until(20_000, || ring.used() != 0), "somebody is typing");
    send(device, &[b"conform: while input waits\n"])
}

fn size(device: &mut Device) -> Verdict {
    needed!(device.live(SIZE)? & SIZE != 0, "SIZE is not offered");
    let read = |device: &Device| [field::COLS, field::ROWS].map(|at| device.registers.read_u16(at));
    let live = read(device);
    device.reset()?;
    let early = read(device);
    ensure!(live == early, "{early:?} before, {live:?} after");
    PASS
}

fn emergency(device: &mut Device) -> Verdict {
    let offered = device.transport.offered();
    needed!(offered & EMERG_WRITE != 0, "EMERG_WRITE is not offered");
    for byte in b"conform: emergency\n" {
        device.registers.write(field::EMERG_WR, u32::from(*byte));
    }
    ensure!(!device.is_broken(), "status {:#x}", device.status());
    PASS
}

fn ports(device: &mut Device) -> Verdict {
    needed!(
        device.live(MULTIPORT)? & MULTIPORT != 0,
        "MULTIPORT is not offered"
    );
    let ports = device.registers.read(field::MAX_NR_PORTS);
    ensure!(ports >= 1, "max_nr_ports is {ports}");
    for index in 0..4 {
        device.registers.write(offset::QUEUE_SEL, index);
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        ensure!(max > 0, "no queue {index}");
    }
    PASS
}

/// The control queues: from the device, with four buffers of 32 bytes at [`INPUT`], and to it.
fn control(device: &mut Device) -> Result<Option<[Ring; 2]>, Failure> {
    if device.negotiate(MULTIPORT)? & MULTIPORT == 0 {
        return Ok(None);
    }
    device.memory.fill(BLANK);
    let rings = device.ring_memory.each_ref().map(|it| Ring::new(it, 4));
    let [from, to] = &rings;
    from.attach(&device.registers, 2);
    to.attach(&device.registers, 3);
    device.transport.start();
    for index in 0..4 {
        let at = device.at(INPUT + 32 * usize::from(index));
        link(from.descriptors(), index, &[Descriptor::writable(at, 32)]);
    }
    from.offer(&[0, 1, 2, 3]);
    device.kick(2);
    Ok(Some(rings))
}

/// Sends a control message, and waits until its buffer is used.
fn tell(device: &Device, to: &Ring, port: u32, event: u16, value: u16) -> Result<(), Failure> {
    device.memory.write(0, &port.to_le_bytes());
    device.memory.write(4, &event.to_le_bytes());
    device.memory.write(6, &value.to_le_bytes());
    link(
        to.descriptors(),
        0,
        &[Descriptor::readable(device.at(0), 8)],
    );
    let before = to.used();
    to.offer(&[0]);
    device.kick(3);
    let done = until(5_000_000, || to.used() != before);
    ensure!(done, "event {event} of port {port:#x} is not taken");
    Ok(())
}

fn added(device: &mut Device) -> Verdict {
    let Some([from, to]) = control(device)? else {
        return Ok(guest::tap::Point::Skip("MULTIPORT is not offered"));
    };
    tell(device, &to, 0, DEVICE_READY, 1)?;
    ensure!(until(5_000_000, || from.used() != 0), "no message");
    let (head, written) = from.element(0);
    ensure!(written >= 8, "a message of {written} bytes");
    let at = INPUT + 32 * usize::try_from(head).unwrap_or(0);
    let event = u16::from_le_bytes([device.byte(at + 4), device.byte(at + 5)]);
    ensure!(event == DEVICE_ADD, "event {event}, not DEVICE_ADD");
    PASS
}

fn strange_messages(device: &mut Device) -> Verdict {
    let Some([_, to]) = control(device)? else {
        return Ok(guest::tap::Point::Skip("MULTIPORT is not offered"));
    };
    tell(device, &to, 0, DEVICE_READY, 1)?;
    for (port, event) in [
        (u32::MAX, PORT_READY),
        (77, PORT_READY),
        (0, 0xffff),
        (77, 6),
    ] {
        tell(device, &to, port, event, 1)?;
    }
    let status = device.status();
    ensure!(status & status::DRIVER_OK != 0, "status {status:#x}");
    device.acknowledge(INTERRUPT_CONFIG);
    PASS
}
