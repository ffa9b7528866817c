//! The first socket device: connections with programs of the host.
//!
//! With `vsock=PORT` a program of the host sends back, on that port, what it receives. With
//! `vsock-listen=PORT` one connects to that port of this machine and wants to get back what it
//! sends.

use guest::fdt::Slot;
use guest::tap::{Failure, Point, Verdict};
use guest::timer::{self, Deadline};
use guest::virtio::device;
use guest::vsock::{Stream, Vsock, WANTED};
use guest::{Error, Wait, ensure, irq};

use super::{Registers, Rig, deadline, devices, interrupt, setting};

pub(super) const POINTS: u32 = 8;

/// A port that no program of the host serves.
const NOBODY: u32 = u32::MAX - 1;
/// The lowest context ID of a guest (§5.10.4), and 2^32 - 1, which stands for any.
const CIDS: core::ops::Range<u64> = 3..u32::MAX as u64;
/// Bytes of an exchange, and without optional features.
const EXCHANGE: usize = 64 << 10;
const SHORT: usize = 100;
/// Without credit for so long, in microseconds, all buffers are full.
const QUIET: u64 = 200_000;
/// More bytes than all buffers hold.
const MUCH: usize = 2 << 20;
/// Longest time until a program of the host connects, in microseconds.
const DIALS: u64 = 30_000_000;

const NO_DEVICE: Point = Point::Skip("no socket device");
const NO_PEER: Point = Point::Skip("no vsock=PORT");
const NO_DIALER: Point = Point::Skip("no vsock-listen=PORT");

/// A device with its driver.
struct Card {
    slot: Slot,
    vsock: Vsock<Registers>,
}

/// One test: a name and a function of a device.
type Test = (&'static str, fn(&mut Rig<'_>, &mut Card) -> Verdict);

const TESTS: [Test; 6] = [
    ("vsock: its interrupt arrives", interrupts),
    ("vsock: a port that nobody serves is refused", refused),
    ("vsock: 64 KiB come back from the host", exchange),
    ("vsock: one side ends its data, and the other goes on", half),
    (
        "vsock: neither side sends more than it has credit for",
        credit,
    ),
    ("vsock: a connection of the host is accepted", accepted),
];

pub(super) fn run(rig: &mut Rig<'_>) {
    let mut card = open(rig);
    let verdict = match &card {
        Ok(None) => Ok(NO_DEVICE),
        Ok(Some(_)) => Ok(Point::Pass),
        Err(failure) => Err(*failure),
    };
    rig.tap.point("vsock: context ID", verdict);
    for (name, test) in TESTS {
        let verdict = match &mut card {
            Ok(Some(card)) => test(rig, card),
            _ => Ok(NO_DEVICE),
        };
        rig.tap.point(name, verdict);
    }
    let verdict = match card {
        Ok(Some(card)) => plain(rig, card),
        _ => Ok(NO_DEVICE),
    };
    rig.tap
        .point("vsock: works without any optional feature", verdict);
}

/// Opens the first device, and checks its configuration.
fn open(rig: &mut Rig<'_>) -> Result<Option<Card>, Failure> {
    let Some((slot, transport)) = devices(rig.board, device::SOCKET).next() else {
        return Ok(None);
    };
    irq::watch(slot);
    let vsock = Vsock::new(transport, &mut rig.dma, WANTED)?;
    let (cid, accepted) = (vsock.cid(), vsock.transport().features());
    ensure!(CIDS.contains(&cid), "{cid} is no context ID of a guest");
    rig.tap.comment(format_args!(
        "{:#x}: socket device, context ID {cid}, features {accepted:#x}",
        slot.base
    ));
    Ok(Some(Card { slot, vsock }))
}

fn interrupts(_: &mut Rig<'_>, card: &mut Card) -> Verdict {
    interrupt::follows(card.slot, || {
        refuses(&mut card.vsock)?;
        Ok(())
    })
}

fn refused(_: &mut Rig<'_>, card: &mut Card) -> Verdict {
    // Often enough to show that a refused connection keeps no place.
    for _ in 0..10 {
        refuses(&mut card.vsock)?;
    }
    Ok(Point::Pass)
}

fn refuses(vsock: &mut Vsock<Registers>) -> Result<(), Failure> {
    let result = vsock.connect(NOBODY, &mut deadline());
    ensure!(result == Err(Error::ConnectionReset), "{result:?}");
    Ok(())
}

/// The port of `vsock=`, if it is given.
fn peer(rig: &Rig<'_>) -> Result<Option<u32>, Failure> {
    port(rig, "vsock")
}

fn port(rig: &Rig<'_>, name: &str) -> Result<Option<u32>, Failure> {
    let port = setting(rig.board, name).map(|text| {
        let wrong = |_| Failure::new(format_args!("{name}={text}: expected a port"));
        text.parse().map_err(wrong)
    });
    port.transpose()
}

fn exchange(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(port) = peer(rig)? else {
        return Ok(NO_PEER);
    };
    let begin = timer::now();
    let stream = card.vsock.connect(port, &mut deadline())?;
    send(&mut card.vsock, &stream, EXCHANGE)?;
    receive(&mut card.vsock, &stream, EXCHANGE)?;
    card.vsock.close(stream, &mut deadline())?;
    let spent = timer::microseconds(timer::now() - begin);
    rig.tap
        .comment(format_args!("{EXCHANGE} bytes and back: {spent} us"));
    Ok(Point::Pass)
}

/// What is sent back after the end of our data, and then its end.
fn half(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(port) = peer(rig)? else {
        return Ok(NO_PEER);
    };
    let vsock = &mut card.vsock;
    let stream = vsock.connect(port, &mut deadline())?;
    send(vsock, &stream, SHORT)?;
    vsock.shutdown_send(&stream, &mut deadline())?;
    let more = vsock.send(&stream, b"more", &mut deadline());
    ensure!(more == Err(Error::Finished), "{more:?}");
    receive(vsock, &stream, SHORT)?;
    ends(vsock, &stream)?;
    vsock.close(stream, &mut deadline())?;
    Ok(Point::Pass)
}

/// Sends without receiving until all buffers are full. The driver resets a stream on which more
/// arrives than it has room for.
fn credit(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(port) = peer(rig)? else {
        return Ok(NO_PEER);
    };
    let vsock = &mut card.vsock;
    let stream = vsock.connect(port, &mut deadline())?;
    let mut sent = 0;
    let mut quiet = Deadline::after(QUIET);
    while sent < MUCH {
        let (bytes, _) = portion(sent, MUCH);
        let count = vsock.send_some(&stream, &bytes, &mut deadline())?;
        sent += count;
        if count > 0 {
            quiet = Deadline::after(QUIET);
        } else if !quiet.wait() {
            break;
        }
    }
    ensure!(sent < MUCH, "{sent} bytes were taken, and none received");
    rig.tap
        .comment(format_args!("{sent} bytes fill all buffers"));
    vsock.shutdown_send(&stream, &mut deadline())?;
    receive(vsock, &stream, sent)?;
    ends(vsock, &stream)?;
    vsock.close(stream, &mut deadline())?;
    Ok(Point::Pass)
}

/// Sends back what a program of the host sends.
fn accepted(rig: &mut Rig<'_>, card: &mut Card) -> Verdict {
    let Some(port) = port(rig, "vsock-listen")? else {
        return Ok(NO_DIALER);
    };
    let vsock = &mut card.vsock;
    vsock.listen(port);
    rig.tap.comment(format_args!("listens on port {port}"));
    let stream = vsock.accept(&mut Deadline::after(DIALS))?;
    let mut bytes = [0; PORTION];
    let mut total = 0;
    loop {
        let count = vsock.receive(&stream, &mut bytes, &mut deadline())?;
        let received = bytes.get(..count).unwrap_or_default();
        if received.is_empty() {
            break;
        }
        total += count;
        vsock.send(&stream, received, &mut deadline())?;
    }
    rig.tap.comment(format_args!("{total} bytes sent back"));
    vsock.shutdown_send(&stream, &mut deadline())?;
    vsock.close(stream, &mut deadline())?;
    Ok(Point::Pass)
}

/// An exchange without indirect descriptors and event indices.
fn plain(rig: &mut Rig<'_>, card: Card) -> Verdict {
    let mut vsock = Vsock::new(card.vsock.into_transport(), &mut rig.dma, 0)?;
    refuses(&mut vsock)?;
    if let Some(port) = peer(rig)? {
        let stream = vsock.connect(port, &mut deadline())?;
        send(&mut vsock, &stream, SHORT)?;
        receive(&mut vsock, &stream, SHORT)?;
        vsock.close(stream, &mut deadline())?;
    }
    vsock.into_transport().reset()?;
    Ok(Point::Pass)
}

/// Bytes that are sent at once.
const PORTION: usize = 1024;

/// The bytes from `at` on, as many as there are of `len` in a portion.
fn portion(at: usize, len: usize) -> ([u8; PORTION], usize) {
    let bytes = core::array::from_fn(|nth| {
        let at = at + nth;
        // No period of a buffer's size.
        (at % 251).to_le_bytes()[0] ^ (at / 251).to_le_bytes()[0]
    });
    (bytes, PORTION.min(len - at))
}

fn send(vsock: &mut Vsock<Registers>, stream: &Stream, len: usize) -> Result<(), Failure> {
    for at in (0..len).step_by(PORTION) {
        let (bytes, count) = portion(at, len);
        let bytes = bytes.get(..count).unwrap_or_default();
        vsock.send(stream, bytes, &mut deadline())?;
    }
    Ok(())
}

/// Receives these bytes, and compares them.
fn receive(vsock: &mut Vsock<Registers>, stream: &Stream, len: usize) -> Result<(), Failure> {
    let mut at = 0;
    while at < len {
        let (expected, most) = portion(at, len);
        let mut bytes = [0; PORTION];
        let into = bytes.get_mut(..most).unwrap_or_default();
        let count = vsock.receive(stream, into, &mut deadline())?;
        ensure!(count > 0, "the end after {at} of {len} bytes");
        ensure!(
            bytes.get(..count) == expected.get(..count),
            "other bytes came back than {at} to {}",
            at + count
        );
        at += count;
    }
    Ok(())
}

fn ends(vsock: &mut Vsock<Registers>, stream: &Stream) -> Result<(), Failure> {
    let end = vsock.receive(stream, &mut [0], &mut deadline());
    ensure!(end == Ok(0), "{end:?} instead of the end");
    Ok(())
}
