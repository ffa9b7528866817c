//! The entropy device (§5.4).

use guest::bare::{Descriptor, link};
use guest::tap::{Failure, Verdict};
use guest::{Region, ensure};

use super::{PASS, Test, test};
use crate::device::{BLANK, Device, Kind};

const ENTROPY: &[Kind] = &[Kind::Entropy];
/// Offset of random bytes in the buffers.
const AT: usize = 0x1_0000;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("5.4.6.2", "at least one byte is given, at most the buffer's", ENTROPY, |device| given(device, 64).and(PASS)),
    test("5.4.6.2", "a buffer of one byte", ENTROPY, |device| given(device, 1).and(PASS)),
    test("5.4.6.2", "a buffer of 64 KiB", ENTROPY, |device| given(device, 0x1_0000).and(PASS)),
    test("5.4.6", "the bytes are not what was there, nor all the same", ENTROPY, random),
    test("5.4.6", "two requests give different bytes", ENTROPY, different),
    test("5.4.6", "a buffer in three pieces is filled from its front", ENTROPY, pieces),
    test("2.7.8.2", "nothing is written beyond the used length", ENTROPY, behind),
];

/// Requests this many bytes, and returns the number written.
fn given(device: &mut Device, len: u32) -> Result<Region, Failure> {
    let all = usize::try_from(len).unwrap_or(0);
    let buffer = device.memory.slice(AT..AT + all);
    device.memory.slice(AT..AT + all + 64).fill(BLANK);
    link(
        device.ring().descriptors(),
        0,
        &[Descriptor::writable(buffer.bus(), len)],
    );
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    ensure!(
        (1..=len).contains(&written),
        "len {written} for {len} bytes"
    );
    Ok(buffer.slice(0..usize::try_from(written).unwrap_or(0)))
}

/// 32 random bytes, by as many requests as needed.
fn bytes(device: &mut Device) -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        let mut one = [0];
        given(device, 1)?.read(0, &mut one);
        [*byte] = one;
    }
    Ok(bytes)
}

fn random(device: &mut Device) -> Verdict {
    let bytes = bytes(device)?;
    let [first, ..] = bytes;
    ensure!(
        bytes.iter().any(|byte| *byte != first),
        "32 bytes of {first:#04x}"
    );
    PASS
}

fn different(device: &mut Device) -> Verdict {
    let (one, two) = (bytes(device)?, bytes(device)?);
    ensure!(one != two, "32 bytes come twice");
    PASS
}

fn pieces(device: &mut Device) -> Verdict {
    device.memory.slice(AT..AT + 96).fill(BLANK);
    let piece = |at, len| Descriptor::writable(device.at(AT + at), len);
    link(
        device.ring().descriptors(),
        0,
        &[piece(64, 8), piece(0, 8), piece(32, 8)],
    );
    device.offer(&[0]);
    let (_, written) = device.answer()?;
    ensure!((1..=24).contains(&written), "len {written} for 24 bytes");
    ensure!(
        device.is_blank(AT + 8..AT + 32),
        "bytes between the pieces changed"
    );
    ensure!(
        device.is_blank(AT + 72..AT + 96),
        "bytes after the pieces changed"
    );
    PASS
}

fn behind(device: &mut Device) -> Verdict {
    let buffer = given(device, 64)?;
    let end = AT + buffer.len();
    ensure!(
        device.is_blank(AT + 64..AT + 128),
        "bytes after the buffer changed"
    );
    ensure!(
        device.is_blank(end..AT + 64),
        "bytes beyond the used length changed"
    );
    PASS
}
