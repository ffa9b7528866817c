//! Suppression of notifications (§2.7.7, §2.7.10) by both sides, by flags and by EVENT_IDX.

use guest::bare::NO_NOTIFICATION;
use guest::ensure;
use guest::mmio::INTERRUPT_USED;
use guest::tap::{Failure, Verdict};
use guest::virtio::feature::EVENT_IDX;

use super::{ALL, PASS, Test, test};
use crate::device::{Device, until};

/// Requests of a test that shows that nothing gets stuck.
const MANY: u16 = 300;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("2.7.7.2", "avail.flags 1 suppresses interrupts", ALL, no_interrupt),
    test("2.7.7.2", "avail.flags back at 0 lets them through", ALL, interrupt_again),
    test("2.7.7.2", "without EVENT_IDX used_event is ignored", ALL, used_event_unused),
    test("2.7.7.2", "EVENT_IDX: an entry at used_event interrupts", ALL, at_used_event),
    test("2.7.7.2", "EVENT_IDX: an entry before used_event does not", ALL, before_used_event),
    test("2.7.7.2", "EVENT_IDX: of three requests the one at used_event interrupts", ALL, third),
    test("2.7.7.2", "EVENT_IDX: avail.flags is ignored", ALL, flags_unused),
    test("2.7.10.2", "used.flags is 0 or 1", ALL, used_flags),
    test("2.7.10.2", "EVENT_IDX: used.flags is 0", ALL, used_flags_zero),
    test("2.7.10", "a driver that kicks only when used.flags asks gets its answers", ALL, heed_flags),
    test("2.7.10", "EVENT_IDX: a driver that kicks only when avail_event asks gets its answers", ALL, heed_event),
    test("2.7.10", "EVENT_IDX: an idle device asks for the next kick", ALL, idle_asks),
];

/// Makes the device serve a plain request. Returns whether bit 0 of InterruptStatus is set then, or
/// shortly after.
fn raises(device: &mut Device) -> Result<bool, Failure> {
    device.acknowledge(INTERRUPT_USED);
    device.plain()?;
    Ok(until(10_000, || device.interrupts() & INTERRUPT_USED != 0))
}

fn no_interrupt(device: &mut Device) -> Verdict {
    device.ring().set_flags(NO_NOTIFICATION);
    ensure!(!raises(device)?, "it interrupts all the same");
    PASS
}

fn interrupt_again(device: &mut Device) -> Verdict {
    device.ring().set_flags(NO_NOTIFICATION);
    device.plain()?;
    device.ring().set_flags(0);
    ensure!(raises(device)?, "no interrupt");
    PASS
}

fn used_event_unused(device: &mut Device) -> Verdict {
    device.ring().set_used_event(0x7fff);
    ensure!(raises(device)?, "no interrupt");
    PASS
}

const NO_EVENT_IDX: &str = "EVENT_IDX is not offered";

macro_rules! with_event_idx {
    ($device:expr) => {
        if $device.live(EVENT_IDX)? & EVENT_IDX == 0 {
            return Ok(guest::tap::Point::Skip(NO_EVENT_IDX));
        }
    };
}

fn at_used_event(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    device.ring().set_used_event(1);
    device.plain()?;
    ensure!(raises(device)?, "no interrupt");
    PASS
}

fn before_used_event(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    device.ring().set_used_event(1000);
    ensure!(!raises(device)?, "it interrupts all the same");
    PASS
}

fn third(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    device.ring().set_used_event(2);
    let raised = [raises(device)?, raises(device)?, raises(device)?];
    ensure!(raised == [false, false, true], "interrupts: {raised:?}");
    PASS
}

fn flags_unused(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    device.ring().set_flags(NO_NOTIFICATION);
    device.ring().set_used_event(0);
    ensure!(raises(device)?, "no interrupt");
    PASS
}

fn used_flags(device: &mut Device) -> Verdict {
    for _ in 0..20 {
        device.plain()?;
        let flags = device.ring().used_flags();
        ensure!(flags <= 1, "used.flags is {flags:#x}");
    }
    PASS
}

fn used_flags_zero(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    for _ in 0..20 {
        device.plain()?;
        let flags = device.ring().used_flags();
        ensure!(flags == 0, "used.flags is {flags:#x}");
    }
    PASS
}

/// Serves [`MANY`] requests, with a kick only if `asked` returns true (after the request was made
/// available).
fn heed(device: &mut Device, asked: impl Fn(&Device, u16) -> bool) -> Verdict {
    for _ in 0..MANY {
        device.chain(device.ring().descriptors(), 0, 1);
        let old = device.ring().available();
        device.ring().offer(&[0]);
        if asked(device, old) {
            device.kick(device.queue());
        }
        let (_, written) = device.answer()?;
        device.check(1, written)?;
    }
    PASS
}

fn heed_flags(device: &mut Device) -> Verdict {
    heed(device, |device, _| {
        device.ring().used_flags() & NO_NOTIFICATION == 0
    })
}

fn heed_event(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    // §2.7.10.1, for one new entry.
    heed(device, |device, old| device.ring().avail_event() == old)
}

fn idle_asks(device: &mut Device) -> Verdict {
    with_event_idx!(device);
    device.plain()?;
    let ring = device.ring();
    let asks = until(1_000_000, || ring.avail_event() == ring.available());
    ensure!(
        asks,
        "avail_event {} for avail.idx {}",
        ring.avail_event(),
        ring.available()
    );
    PASS
}
