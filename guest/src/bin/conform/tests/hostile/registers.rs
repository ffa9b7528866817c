//! Registers used in ways that no driver does, and invalid set-ups.

use guest::bare::Ring;
use guest::mmio::{INTERRUPT_USED, offset};
use guest::tap::{Failure, Verdict};
use guest::virtio::status;
use guest::{Registers, ensure, timer};

use super::ring::overlapping;
use super::survived;
use crate::device::{BLANK, BLANKED, DATA, Device, Kind, Met, UNIT, until};
use crate::tests::{ALL, DISK, PASS, Test, test};

/// Bytes of a device's registers, the configuration space included, that every VMM has.
const END: usize = 0x200;
/// Kicks of the flood.
const FLOOD: u32 = 100_000;
/// The registers of a queue except QueueReady: size and addresses.
const QUEUE: [usize; 7] = [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];

#[rustfmt::skip]
pub(in crate::tests) const TESTS: &[Test] = &[
    test("4.2.3.2", "rings at address 0", ALL, |device| rings_at(device, 0)),
    test("4.2.3.2", "rings near 2^64", ALL, |device| rings_at(device, u64::MAX - 15)),
    test("4.2.3.2", "rings beyond the memory", ALL, |device| rings_at(device, device.ram.0 + device.ram.1)),
    test("4.2.3.2", "rings across the end of the memory", ALL, |device| rings_at(device, device.ram.0 + device.ram.1 - 32)),
    test("4.2.3.2", "rings in the device's own registers", ALL, |device| rings_at(device, device.slot.base)),
    test("2.7", "a misaligned descriptor area", ALL, |device| misaligned(device, offset::QUEUE_DESC)),
    test("2.7", "a misaligned driver area", ALL, |device| misaligned(device, offset::QUEUE_DRIVER)),
    test("2.7", "a misaligned device area", ALL, |device| misaligned(device, offset::QUEUE_DEVICE)),
    test("2.7", "the available ring over the descriptors", ALL, |device| overlap(device, [0, 0, 4096])),
    test("2.7", "the used ring over the descriptors", ALL, |device| overlap(device, [0, 4096, 0])),
    test("2.7", "the used ring over the available ring", ALL, |device| overlap(device, [0, 4096, 4096])),
    test("2.7", "all three areas at one place", ALL, |device| overlap(device, [0, 0, 0])),
    test("4.2.3.2", "QueueSize 0", ALL, |device| queue_size(device, 0)),
    test("4.2.3.2", "QueueSize 3", ALL, |device| queue_size(device, 3)),
    test("4.2.3.2", "QueueSize 65535", ALL, |device| queue_size(device, 0xffff)),
    test("4.2.3.2", "QueueSize above QueueSizeMax", ALL, too_large),
    test("4.2.3.2", "QueueSize 0x10010", ALL, |device| queue_size(device, 0x1_0010)),
    test("4.2.3.2", "QueueReady without anything before it", ALL, ready_alone),
    test("4.2.2.2", "queue registers rewritten while the queue is live", ALL, rewritten),
    test("4.2.2.2", "QueueReady written 0 and 1 while the device is live", ALL, ready_live),
    test("4.2.2", "every queue register of a queue that does not exist", ALL, absent_queue),
    test("3.1.1", "features after FEATURES_OK", ALL, late_features),
    test("3.1.1", "DRIVER_OK without FEATURES_OK", ALL, no_features_ok),
    test("3.1.1", "DRIVER_OK without any queue", ALL, no_queue),
    test("2.1.2", "a kick before DRIVER_OK", ALL, early_kick),
    test("4.2.3.3", "kicks of queues that do not exist", ALL, absent_kicks),
    test("2.1.1", "status bits cleared one by one", ALL, cleared),
    test("2.1.1", "status bits that do not exist", ALL, unknown_status),
    test("2.1", "DEVICE_NEEDS_RESET set by the driver", ALL, driver_needs_reset),
    test("2.4.1", "a reset with requests in flight, the memory used for something else", ALL, reset_in_flight),
    test("2.4.1", "200 resets under load", ALL, reset_storm),
    test("4.2.2.2", "registers read by 1 byte", ALL, |device| narrow_reads(device, 1)),
    test("4.2.2.2", "registers read by 2 bytes", ALL, |device| narrow_reads(device, 2)),
    test("4.2.2.2", "registers read by 8 bytes", ALL, |device| narrow_reads(device, 8)),
    test("4.2.2.2", "registers written by 1 byte", ALL, |device| narrow_writes(device, 1)),
    test("4.2.2.2", "registers written by 2 bytes", ALL, |device| narrow_writes(device, 2)),
    test("4.2.2.2", "registers written by 8 bytes", ALL, |device| narrow_writes(device, 8)),
    test("4.2.2", "reads of every write-only or undefined register", ALL, every_read),
    test("4.2.2.2", "configuration space read past its end", ALL, config_past_end),
    test("4.2.2.2", "configuration space written, all of it", ALL, config_written),
    test("4.2.2", "InterruptACK of bits that are not set", ALL, strange_ack),
    test("4.2.3.3", "100 000 kicks", DISK, flood),
    test("4.2.2.1", "ACKs that race the interrupts of 500 requests", ALL, racing_acks),
];

/// Sets the queue up by `change`, and offers a request.
fn set_up(device: &mut Device, change: impl Fn(&Device)) -> Verdict {
    device.negotiate(0)?;
    let queue = device.queue();
    device.ring().clear();
    device.ring().announce(&device.registers, queue);
    change(device);
    device.registers.write(offset::QUEUE_READY, 1);
    device.transport.start();
    device.chain(device.ring().descriptors(), 0, 1);
    device.ring().offer(&[0]);
    device.kick(queue);
    survived(device)
}

#[allow(clippy::cast_possible_truncation, reason = "registers have halves")]
fn area(device: &Device, register: usize, address: u64) {
    device.registers.write(register, address as u32);
    device.registers.write(register + 4, (address >> 32) as u32);
}

/// One area at such an address, the others at valid ones.
fn rings_at(device: &mut Device, address: u64) -> Verdict {
    for register in [
        offset::QUEUE_DESC,
        offset::QUEUE_DRIVER,
        offset::QUEUE_DEVICE,
    ] {
        set_up(device, |device| area(device, register, address))?;
    }
    PASS
}

fn misaligned(device: &mut Device, register: usize) -> Verdict {
    set_up(device, |device| {
        let memory = device.at(0x8000);
        area(device, register, memory + 1);
    })
}

fn overlap(device: &mut Device, areas: [usize; 3]) -> Verdict {
    device.negotiate(0)?;
    let ring: Ring = overlapping(device, areas);
    let queue = device.queue();
    ring.attach(&device.registers, queue);
    device.transport.start();
    device.chain(ring.descriptors(), 0, 1);
    ring.offer(&[0, 0, 0]);
    device.kick(queue);
    until(20_000, || device.is_broken());
    device.met = if device.is_broken() {
        Met::NeedsReset
    } else {
        Met::Nothing
    };
    PASS
}

fn queue_size(device: &mut Device, size: u32) -> Verdict {
    set_up(device, |device| {
        device.registers.write(offset::QUEUE_SIZE, size);
    })
}

fn too_large(device: &mut Device) -> Verdict {
    set_up(device, |device| {
        let max = device.registers.read(offset::QUEUE_SIZE_MAX);
        device.registers.write(offset::QUEUE_SIZE, 2 * max);
    })
}

fn ready_alone(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    let queue = device.queue();
    device.registers.write(offset::QUEUE_SEL, queue.into());
    device.registers.write(offset::QUEUE_READY, 1);
    device.transport.start();
    device.kick(queue);
    survived(device)
}

fn rewritten(device: &mut Device) -> Verdict {
    device
        .registers
        .write(offset::QUEUE_SEL, device.queue().into());
    for value in [0, 1, 3, 0x8000, u32::MAX] {
        for register in QUEUE {
            device.registers.write(register, value);
        }
        device.kick(device.queue());
    }
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
    survived(device)
}

fn ready_live(device: &mut Device) -> Verdict {
    device
        .registers
        .write(offset::QUEUE_SEL, device.queue().into());
    for value in [1, 0, 1, u32::MAX, 0, 1] {
        device.registers.write(offset::QUEUE_READY, value);
        device.kick(device.queue());
    }
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
    survived(device)
}

fn absent_queue(device: &mut Device) -> Verdict {
    for select in [2, 31, 64, 1023, 1024, 0xffff, 0x1_0000, u32::MAX] {
        if select >= u32::from(device.queues()) {
            device.registers.write(offset::QUEUE_SEL, select);
            for register in QUEUE {
                device.registers.write(register, 0x10);
            }
            device.registers.write(offset::QUEUE_READY, 1);
            device.registers.write(offset::QUEUE_RESET, 1);
            for register in QUEUE {
                let _ = device.registers.read(register);
            }
        }
    }
    survived(device)
}

fn late_features(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    for value in [u32::MAX, 0] {
        for select in [0, 1, 2] {
            device.registers.write(offset::DRIVER_FEATURES_SEL, select);
            device.registers.write(offset::DRIVER_FEATURES, value);
        }
    }
    device.transport.start();
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
    survived(device)
}

fn no_features_ok(device: &mut Device) -> Verdict {
    device.reset()?;
    let driver = status::ACKNOWLEDGE | status::DRIVER;
    device.registers.write(offset::STATUS, driver);
    device.ring().clear();
    let queue = device.queue();
    device.ring().attach(&device.registers, queue);
    device
        .registers
        .write(offset::STATUS, driver | status::DRIVER_OK);
    device.chain(device.ring().descriptors(), 0, 1);
    device.ring().offer(&[0]);
    device.kick(queue);
    until(20_000, || device.is_broken());
    device.met = Met::Nothing;
    PASS
}

fn no_queue(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    device.transport.start();
    for queue in 0..4 {
        device.kick(queue);
    }
    survived(device)
}

fn early_kick(device: &mut Device) -> Verdict {
    device.prepare(0)?;
    device.chain(device.ring().descriptors(), 0, 1);
    for _ in 0..100 {
        device.kick(device.queue());
    }
    device.offer(&[0]);
    survived(device)
}

fn absent_kicks(device: &mut Device) -> Verdict {
    for queue in [
        4,
        77,
        1023,
        1024,
        1025,
        0xffff,
        0x1_0000,
        0x8000_0000,
        u32::MAX,
    ] {
        device.registers.write(offset::QUEUE_NOTIFY, queue);
    }
    device.plain()?;
    PASS
}

fn cleared(device: &mut Device) -> Verdict {
    for bit in [
        status::DRIVER_OK,
        status::FEATURES_OK,
        status::DRIVER,
        status::ACKNOWLEDGE,
    ] {
        let now = device.status();
        device.registers.write(offset::STATUS, now & !bit);
        device.kick(device.queue());
    }
    survived(device)
}

fn unknown_status(device: &mut Device) -> Verdict {
    for value in [0x10, 0x20, 0xff, 0x100, 0xffff_ff00, u32::MAX] {
        device.registers.write(offset::STATUS, value);
    }
    survived(device)
}

fn driver_needs_reset(device: &mut Device) -> Verdict {
    let wanted = device.status() | status::DEVICE_NEEDS_RESET;
    device.registers.write(offset::STATUS, wanted);
    survived(device)
}

/// As many plain requests as fit, without waiting.
fn load(device: &Device) {
    let len = device.chain_len();
    for unit in 0..16 {
        device.chain(device.ring().descriptors(), (unit * len) % 48, unit);
        device.ring().offer(&[(unit * len) % 48]);
    }
    device.kick(device.queue());
}

fn reset_in_flight(device: &mut Device) -> Verdict {
    for _ in 0..20 {
        device.live(0)?;
        load(device);
        device.reset()?;
        device.memory.slice(0..BLANKED).fill(BLANK);
        device.ring().clear();
        until(2_000, || false);
        let data = (0..16).map(|unit| UNIT * unit + DATA);
        for at in data {
            ensure!(
                device.is_blank(at..at + 64),
                "memory was written after the reset"
            );
        }
        ensure!(
            device.ring().used() == 0,
            "the used ring was written after the reset"
        );
        let found = device.interrupts();
        ensure!(found == 0, "InterruptStatus is {found:#x} after the reset");
    }
    PASS
}

fn reset_storm(device: &mut Device) -> Verdict {
    for _ in 0..200 {
        device.live(0)?;
        load(device);
        device.registers.write(offset::STATUS, 0);
    }
    PASS
}

/// Every register except QueueNotify, which plain requests use.
fn registers() -> impl Iterator<Item = usize> {
    (0..offset::CONFIG).filter(|at| *at & !3 != offset::QUEUE_NOTIFY)
}

fn narrow_reads(device: &mut Device, width: usize) -> Verdict {
    for at in registers().filter(|at| at.is_multiple_of(width)) {
        match width {
            1 => drop(device.registers.read_u8(at)),
            2 => drop(device.registers.read_u16(at)),
            _ => drop(device.registers.read_u64(at)),
        }
    }
    device.plain()?;
    PASS
}

fn narrow_writes(device: &mut Device, width: usize) -> Verdict {
    for at in registers().filter(|at| at.is_multiple_of(width)) {
        match width {
            1 => device.registers.write_u8(at, 0xff),
            2 => device.registers.write_u16(at, 0xffff),
            _ => device.registers.write_u64(at, u64::MAX),
        }
    }
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
    survived(device)
}

fn every_read(device: &mut Device) -> Verdict {
    for at in (0..offset::CONFIG).step_by(4) {
        let _ = device.registers.read(at);
    }
    device.plain()?;
    PASS
}

fn config_past_end(device: &mut Device) -> Verdict {
    for at in offset::CONFIG..END {
        let _ = device.registers.read_u8(at);
    }
    for at in (offset::CONFIG..END).step_by(4) {
        let _ = device.registers.read(at);
    }
    device.plain()?;
    PASS
}

fn config_written(device: &mut Device) -> Verdict {
    // A harmless character, if the console accepts one.
    let byte = if device.kind == Kind::Console {
        b' '
    } else {
        0xff
    };
    for at in offset::CONFIG..END {
        device.registers.write_u8(at, byte);
    }
    let word = u32::from_le_bytes([byte; 4]);
    for at in (offset::CONFIG..END).step_by(4) {
        device.registers.write(at, word);
    }
    device.plain()?;
    PASS
}

fn strange_ack(device: &mut Device) -> Verdict {
    for bits in [0, !3, u32::MAX, 0x8000_0000] {
        device.acknowledge(bits);
    }
    device.plain()?;
    PASS
}

fn flood(device: &mut Device) -> Verdict {
    let mut slowest = 0;
    for _ in 0..FLOOD {
        let begin = timer::now();
        device.kick(device.queue());
        slowest = slowest.max(timer::now() - begin);
    }
    let begin = timer::now();
    device.plain()?;
    slowest = slowest.max(timer::now() - begin);
    device.slowest = Some(timer::microseconds(slowest));
    PASS
}

fn racing_acks(device: &mut Device) -> Verdict {
    for _ in 0..500 {
        device.chain(device.ring().descriptors(), 0, 1);
        device.offer(&[0]);
        while !device.has_answers() {
            device.acknowledge(INTERRUPT_USED);
            if device.is_broken() {
                return Err(Failure::new(format_args!("it needs a reset")));
            }
        }
        device.answer()?;
    }
    device.acknowledge(u32::MAX);
    device.plain()?;
    let came = until(2_000_000, || device.interrupts() & INTERRUPT_USED != 0);
    ensure!(came, "the last interrupt is lost");
    PASS
}
