//! The acts of a hostile or broken driver. A case passes if it does no harm: the device recovers
//! after a reset, the disk has kept its content, the other devices work, and no invalid request is
//! reported as done. How the device reacts (an answer, DEVICE_NEEDS_RESET, nothing) is its choice;
//! the comment above the point reports it.

pub(super) mod frames;
pub(super) mod packets;
pub(super) mod pages;
pub(super) mod registers;
pub(super) mod requests;
pub(super) mod ring;

use guest::bare::{Descriptor, link};
use guest::ensure;
use guest::tap::Verdict;

use super::PASS;
use crate::device::{Device, Kind, Met};
use crate::disk::OK;

/// Offers the plain request with an invalid data buffer: it must not be reported as done.
fn impossible_data(device: &mut Device, address: u64, len: u32) -> Verdict {
    offer_with(device, |data| Descriptor { address, len, ..data });
    not_done(device)
}

/// Offers the plain request with another data buffer.
fn offer_with(device: &mut Device, change: impl Fn(Descriptor) -> Descriptor) {
    let (mut buffers, count) = device.buffers(1);
    if let Some(data) = buffers.get_mut(count / 2) {
        *data = change(*data);
    }
    let table = device.ring().descriptors();
    link(table, 0, buffers.get(..count).unwrap_or_default());
    device.offer(&[0]);
}

/// Makes the device live, and gives it one receive buffer.
fn receive_with(device: &mut Device, buffer: impl Fn(&Device) -> Descriptor) -> Verdict {
    device.live(0)?;
    let [ring, _] = &device.rings;
    link(ring.descriptors(), 0, &[buffer(device)]);
    ring.offer(&[0]);
    device.kick(0);
    PASS
}

/// Waits for the device's reaction. Success would be a false report.
fn not_done(device: &mut Device) -> Verdict {
    if let Met::Answered(_) = device.settle() {
        let (_, written) = device.answer()?;
        let lie = match device.kind {
            Kind::Disk | Kind::ReadOnly => device.status_of(1) == OK,
            Kind::Entropy => written > 0,
            _ => false,
        };
        ensure!(!lie, "reported as done, with len {written:#x}");
    }
    PASS
}

/// Waits for the device's reaction, which may be anything.
fn survived(device: &mut Device) -> Verdict {
    device.settle();
    PASS
}
