//! Valid rings with invalid frames and receive buffers of a network card.

use guest::bare::{Descriptor, WRITE, link};
use guest::ensure;
use guest::net::features;
use guest::tap::Verdict;

use super::survived;
use crate::device::{DATA, Device, Met};
use crate::plain::{FRAME, frame, readable};
use crate::tests::net::{ask, bounded, post};
use crate::tests::{NET, PASS, Test, test};

/// Offset of a receive buffer, and of long frames.
const AT: usize = 0x1_0000;

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("5.1.6.2", "a frame of 0 bytes, without a header", NET, |device| short(device, 0)),
    test("5.1.6.2", "a header of 1 byte", NET, |device| short(device, 1)),
    test("5.1.6.2", "a header of 11 bytes", NET, |device| short(device, 11)),
    test("5.1.6.2", "a header without a frame", NET, |device| short(device, 12)),
    test("5.1.6.2", "a frame of 13 bytes", NET, |device| short(device, 25)),
    test("5.1.6.2", "a frame of 64 KiB", NET, |device| long(device, 0x1_0000)),
    test("5.1.6.2", "a frame of 180 KiB", NET, |device| long(device, 180 << 10)),
    test("5.1.6.2", "a frame in a writable buffer", NET, |device| offer(device, |buffer| buffer.with(WRITE))),
    test("5.1.6.2", "a frame from beyond the memory", NET, |device| { let address = device.ram.0 + device.ram.1; offer(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.1.6.2", "a frame from the device's own registers", NET, |device| { let address = device.slot.base; offer(device, move |buffer| Descriptor { address, ..buffer }) }),
    test("5.1.6.2", "unknown flags", NET, |device| header(device, &[(0, 0xff)])),
    test("5.1.6.2", "an unknown gso_type", NET, |device| header(device, &[(1, 0x7f)])),
    test("5.1.6.2", "every gso_type without its feature", NET, |device| (0..=255).try_fold((), |(), kind| header(device, &[(1, kind), (4, 100)]).map(|_| ())).and(PASS)),
    test("5.1.6.2", "a gso_type with a gso_size of 0", NET, |device| header(device, &[(0, 1), (1, 1)])),
    test("5.1.6.2", "a hdr_len beyond the frame", NET, |device| header(device, &[(1, 1), (2, 0xff), (3, 0xff), (4, 100)])),
    test("5.1.6.2", "csum_start beyond the frame", NET, |device| header(device, &[(0, 1), (6, 0xff), (7, 0xff)])),
    test("5.1.6.2", "csum_offset beyond the frame", NET, |device| header(device, &[(0, 1), (6, 14), (8, 0xff), (9, 0xff)])),
    test("5.1.6.2", "num_buffers of a frame that is sent", NET, |device| header(device, &[(10, 0xff), (11, 0xff)])),
    test("5.1.6.3", "a receive buffer of 0 bytes", NET, |device| small(device, 0, 0)),
    test("5.1.6.3.1", "receive buffers of 11 bytes", NET, |device| small(device, 11, 0)),
    test("5.1.6.3.1", "receive buffers of 12 bytes", NET, |device| small(device, 12, 0)),
    test("5.1.6.3.1", "receive buffers of 20 bytes", NET, |device| small(device, 20, 0)),
    test("5.1.6.3.1", "MRG_RXBUF: receive buffers of 11 bytes", NET, |device| small(device, 11, features::MRG_RXBUF)),
    test("5.1.6.3.1", "MRG_RXBUF: a frame that all receive buffers together cannot hold", NET, |device| { device.replace_rings(4); small(device, 12, features::MRG_RXBUF) }),
    test("5.1.6.3", "a receive buffer that is readable", NET, |device| receive(device, |device| Descriptor::readable(device.at(AT), 2048))),
    test("5.1.6.3", "a receive buffer beyond the memory", NET, |device| receive(device, |device| Descriptor::writable(device.ram.0 + device.ram.1, 2048))),
    test("5.1.6.3", "a receive buffer across the end of the memory", NET, |device| receive(device, |device| Descriptor::writable(device.ram.0 + device.ram.1 - 64, 2048))),
    test("5.1.6.5", "kicks of a control queue that was not offered", NET, |device| { (2..10).for_each(|queue| device.kick(queue)); survived(device) }),
    test("2.4.1", "a reset with full receive buffers, 50 times", NET, resets),
];

/// Sends the first bytes of a frame.
fn short(device: &mut Device, len: u32) -> Verdict {
    offer(device, |buffer| Descriptor { len, ..buffer })
}

/// Sends a frame in a buffer that is changed.
fn offer(device: &mut Device, change: impl Fn(Descriptor) -> Descriptor) -> Verdict {
    super::offer_with(device, change);
    survived(device)
}

/// Sends a frame of this many bytes in all.
fn long(device: &mut Device, len: usize) -> Verdict {
    let all = device.memory.slice(AT..AT + len);
    all.fill(0);
    all.write(0, &frame());
    link(device.ring().descriptors(), 0, &[readable(&all)]);
    device.offer(&[0]);
    survived(device)
}

/// Sends a frame with these bytes of its header changed.
fn header(device: &mut Device, changes: &[(usize, u8)]) -> Verdict {
    let mut frame = frame();
    for (at, byte) in changes {
        if let Some(place) = frame.get_mut(*at) {
            *place = *byte;
        }
    }
    device.memory.write(DATA, &frame);
    let all = readable(&device.memory.slice(DATA..DATA + FRAME));
    link(device.ring().descriptors(), 0, &[all]);
    device.offer(&[0]);
    if let Met::Answered(_) = device.settle() {
        let (_, written) = device.answer()?;
        ensure!(written == 0, "len {written} for a frame that is sent");
        device.met = Met::Answered(1);
    }
    PASS
}

/// Receive buffers that are too small for any frame.
fn small(device: &mut Device, len: u32, wanted: u64) -> Verdict {
    device.live(wanted)?;
    let lens = [len; 4];
    post(device, &lens);
    for _ in 0..4 {
        if let Err(failure) = ask(device) {
            // DEVICE_NEEDS_RESET is an answer too.
            device.is_broken().then_some(()).ok_or(failure)?;
            break;
        }
    }
    bounded(device, &lens)?;
    let [ring, _] = &device.rings;
    device.met = match (device.is_broken(), ring.used()) {
        (true, _) => Met::NeedsReset,
        (false, 0) => Met::Silence,
        (false, count) => Met::Answered(count),
    };
    PASS
}

/// One receive buffer, and a frame for it.
fn receive(device: &mut Device, buffer: impl Fn(&Device) -> Descriptor) -> Verdict {
    super::receive_with(device, buffer)?;
    // The answer to what is sent may be DEVICE_NEEDS_RESET.
    super::offer_with(device, |buffer| buffer);
    survived(device)
}

fn resets(device: &mut Device) -> Verdict {
    for _ in 0..50 {
        device.live(features::MRG_RXBUF)?;
        post(device, &[64; 16]);
        ask(device)?;
        device.reset()?;
    }
    PASS
}
