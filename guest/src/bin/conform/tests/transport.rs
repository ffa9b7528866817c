//! Registers, interrupts and the set-up of queues: requirements on every virtio-mmio device (§4.2).

use guest::mmio::{INTERRUPT_CONFIG, INTERRUPT_USED, MAGIC, offset};
use guest::tap::{Failure, Verdict};
use guest::{Registers, ensure, irq};

use super::{ALL, PASS, Test, needed, test};
use crate::device::{Device, Kind, RING_MAX, until};

/// Longest time for an interrupt to arrive, in microseconds.
pub(super) const LATENCY: u64 = 2_000_000;

#[rustfmt::skip]
pub(super) const TESTS: &[Test] = &[
    test("4.2.2.1", "MagicValue reads \"virt\"", ALL, |device| reads(device, offset::MAGIC, MAGIC)),
    test("4.2.2.1", "Version reads 2", ALL, |device| reads(device, offset::VERSION, 2)),
    test("4.2.2", "read-only registers ignore writes", ALL, read_only_registers),
    test("4.2.2", "DeviceFeatures reads the same again", ALL, features_repeat),
    test("4.2.2", "DeviceFeaturesSel beyond 1 offers nothing that a driver knows", ALL, far_features),
    test("4.2.2", "a shared memory region that does not exist has a length of all ones", ALL, shm_length),
    test("4.2.2", "a shared memory region that does not exist has a base of all ones", ALL, shm_base),
    test("4.2.2", "QueueSizeMax is a size of a split queue", ALL, queue_size_max),
    test("4.2.2", "QueueSizeMax is 0 for a queue that does not exist", ALL, absent_queue),
    test("4.2.2", "QueueReady reads what was written last", ALL, queue_ready),
    test("4.2.2", "QueueReady is one register for each queue", &[Kind::Console, Kind::Network], queues_apart),
    test("4.2.2.1", "a reset clears every QueueReady", ALL, reset_clears_ready),
    test("4.2.2.1", "InterruptStatus is 0 after a reset", ALL, reset_clears_interrupts),
    test("4.2.2.1", "InterruptStatus has bit 0 after a used buffer", ALL, |device| used(device).and(PASS)),
    test("4.2.2.1", "InterruptStatus keeps its bit until the ACK", ALL, kept_until_ack),
    test("4.2.2.1", "InterruptACK of another bit keeps bit 0", ALL, other_ack),
    test("4.2.2.1", "InterruptACK clears the bit it names", ALL, ack),
    test("4.2.2.1", "InterruptStatus has no bit without its event", ALL, no_other_bits),
    test("4.2.2.1", "ConfigGeneration is constant while nothing changes", ALL, generation),
    test("4.2.2.1", "a queue whose QueueReady is 0 is not touched", ALL, disabled_queue),
    test("4.2.3.4", "a used buffer interrupts", ALL, interrupts),
    test("4.2.3.4", "the next used buffer interrupts again", ALL, |device| interrupts(device).and_then(|_| interrupts(device))),
    test("4.2.3.4", "an acknowledged interrupt does not recur", ALL, no_storm),
    test("4.2.3.2", "rings of every size up to QueueSizeMax work", ALL, sizes),
    test("4.2.3.2", "rings at the least alignments work", ALL, alignments),
    test("4.2.3.3", "a kick without anything new does nothing", ALL, empty_kick),
];

fn reads(device: &mut Device, register: usize, wanted: u32) -> Verdict {
    let found = device.registers.read(register);
    ensure!(found == wanted, "{found:#x}, not {wanted:#x}");
    PASS
}

fn read_only_registers(device: &mut Device) -> Verdict {
    device.registers.write(offset::DEVICE_FEATURES_SEL, 0);
    device.registers.write(offset::QUEUE_SEL, 0);
    for register in [
        offset::MAGIC,
        offset::VERSION,
        offset::DEVICE_ID,
        offset::VENDOR_ID,
        offset::DEVICE_FEATURES,
        offset::QUEUE_SIZE_MAX,
        offset::INTERRUPT_STATUS,
        offset::CONFIG_GENERATION,
    ] {
        let before = device.registers.read(register);
        device.registers.write(register, !before);
        let after = device.registers.read(register);
        ensure!(
            before == after,
            "register {register:#x}: {before:#x} became {after:#x}"
        );
    }
    device.plain()?;
    PASS
}

fn features_repeat(device: &mut Device) -> Verdict {
    let first = device.transport.offered();
    device.reset()?;
    let second = device.transport.offered();
    ensure!(first == second, "{first:#x}, then {second:#x}");
    PASS
}

fn far_features(device: &mut Device) -> Verdict {
    for select in [4, 0x8000_0000, u32::MAX] {
        device.registers.write(offset::DEVICE_FEATURES_SEL, select);
        let found = device.registers.read(offset::DEVICE_FEATURES);
        ensure!(found == 0, "{found:#x} for DeviceFeaturesSel {select:#x}");
    }
    PASS
}

fn shm(device: &mut Device, register: usize) -> Verdict {
    device.registers.write(offset::SHM_SEL, 77);
    for half in [register, register + 4] {
        let found = device.registers.read(half);
        ensure!(found == u32::MAX, "register {half:#x} is {found:#x}");
    }
    PASS
}

fn shm_length(device: &mut Device) -> Verdict {
    shm(device, offset::SHM_LEN)
}

fn shm_base(device: &mut Device) -> Verdict {
    shm(device, offset::SHM_BASE)
}

fn queue_max(device: &Device, index: u32) -> u32 {
    device.registers.write(offset::QUEUE_SEL, index);
    device.registers.read(offset::QUEUE_SIZE_MAX)
}

fn queue_size_max(device: &mut Device) -> Verdict {
    for index in 0..device.queues() {
        let max = queue_max(device, index.into());
        ensure!((1..=32768).contains(&max), "{max} for queue {index}");
    }
    PASS
}

fn absent_queue(device: &mut Device) -> Verdict {
    for index in [1025, 0xffff] {
        let max = queue_max(device, index);
        ensure!(max == 0, "{max} for queue {index}");
    }
    PASS
}

pub(super) fn ready(device: &Device, index: u16) -> u32 {
    device.registers.write(offset::QUEUE_SEL, index.into());
    device.registers.read(offset::QUEUE_READY)
}

fn queue_ready(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    let queue = device.queue();
    ensure!(ready(device, queue) == 0, "not 0 before it was written");
    device.ring().attach(&device.registers, queue);
    ensure!(ready(device, queue) == 1, "not 1 after 1 was written");
    device.registers.write(offset::QUEUE_READY, 0);
    ensure!(ready(device, queue) == 0, "not 0 after 0 was written");
    PASS
}

fn queues_apart(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    let [first, _] = &device.rings;
    first.attach(&device.registers, 0);
    ensure!(
        ready(device, 1) == 0,
        "queue 1 is ready by what queue 0 was told"
    );
    ensure!(ready(device, 0) == 1, "queue 0 is not ready");
    PASS
}

fn reset_clears_ready(device: &mut Device) -> Verdict {
    device.reset()?;
    for queue in 0..device.queues() {
        ensure!(ready(device, queue) == 0, "queue {queue} is still ready");
    }
    PASS
}

fn reset_clears_interrupts(device: &mut Device) -> Verdict {
    used(device)?;
    device.reset()?;
    let found = device.interrupts();
    ensure!(found == 0, "{found:#x}");
    PASS
}

/// Makes the device use a buffer: its bit is set.
pub(super) fn used(device: &mut Device) -> Result<(), Failure> {
    device.acknowledge(INTERRUPT_USED | INTERRUPT_CONFIG);
    device.plain()?;
    // The entry may be visible a moment before the bit.
    until(LATENCY, || device.interrupts() & INTERRUPT_USED != 0);
    let found = device.interrupts();
    ensure!(found & INTERRUPT_USED != 0, "InterruptStatus is {found:#x}");
    Ok(())
}

fn kept_until_ack(device: &mut Device) -> Verdict {
    used(device)?;
    for _ in 0..100 {
        let found = device.interrupts();
        ensure!(found & INTERRUPT_USED != 0, "{found:#x} without an ACK");
    }
    PASS
}

fn other_ack(device: &mut Device) -> Verdict {
    used(device)?;
    device.acknowledge(!INTERRUPT_USED);
    let found = device.interrupts();
    ensure!(found & INTERRUPT_USED != 0, "{found:#x}");
    PASS
}

fn ack(device: &mut Device) -> Verdict {
    used(device)?;
    device.acknowledge(INTERRUPT_USED);
    let found = device.interrupts();
    ensure!(found & INTERRUPT_USED == 0, "{found:#x}");
    PASS
}

fn no_other_bits(device: &mut Device) -> Verdict {
    used(device)?;
    let found = device.interrupts();
    ensure!(found == INTERRUPT_USED, "{found:#x}");
    PASS
}

fn generation(device: &mut Device) -> Verdict {
    let before = device.registers.read(offset::CONFIG_GENERATION);
    device.plain()?;
    let after = device.registers.read(offset::CONFIG_GENERATION);
    ensure!(before == after, "{before:#x}, then {after:#x}");
    PASS
}

fn disabled_queue(device: &mut Device) -> Verdict {
    device.negotiate(0)?;
    device.ring().clear();
    let queue = device.queue();
    device.ring().announce(&device.registers, queue);
    device.transport.start();
    offer_plain(device);
    ensure!(device.ring().used() == 0, "used.idx moved");
    device.settle();
    ensure!(device.ring().used() == 0, "used.idx moved");
    PASS
}

/// Makes a plain request available, and kicks.
pub(super) fn offer_plain(device: &Device) {
    device.chain(device.ring().descriptors(), 0, 1);
    device.offer(&[0]);
}

/// A used buffer interrupts within [`LATENCY`].
fn interrupts(device: &mut Device) -> Verdict {
    device.acknowledge(INTERRUPT_USED | INTERRUPT_CONFIG);
    needed!(irq::watch(device.slot), "no interrupt controller");
    let before = irq::seen(device.slot).count;
    let plain = device.plain();
    let came = until(LATENCY, || irq::seen(device.slot).count != before);
    irq::ignore(device.slot.source);
    plain?;
    ensure!(came, "no interrupt within {} s", LATENCY / 1_000_000);
    let status = irq::seen(device.slot).status;
    ensure!(
        status & INTERRUPT_USED != 0,
        "InterruptStatus was {status:#x}"
    );
    PASS
}

fn no_storm(device: &mut Device) -> Verdict {
    interrupts(device)?;
    needed!(irq::watch(device.slot), "no interrupt controller");
    let before = irq::seen(device.slot).count;
    until(20_000, || false);
    let after = irq::seen(device.slot);
    irq::ignore(device.slot.source);
    let count = after.count - before;
    ensure!(count == 0 && !after.storm, "{count} interrupts for nothing");
    PASS
}

fn sizes(device: &mut Device) -> Verdict {
    let max = queue_max(device, device.queue().into()).min(RING_MAX.into());
    let max = u16::try_from(max).unwrap_or(RING_MAX);
    for size in (0..16).map(|bit| 1_u16 << bit) {
        if (device.chain_len()..=max).contains(&size) {
            device
                .live_with(size)
                .and_then(|()| (0..3).try_for_each(|_| device.plain()))
                .map_err(|failure| Failure::new(format_args!("size {size}: {failure}")))?;
        }
    }
    PASS
}

/// §2.7: 16, 2 and 4 bytes.
fn alignments(device: &mut Device) -> Verdict {
    let [first, second] = &device.ring_memory;
    let rings = [first, second]
        .map(|memory| guest::bare::Ring::at(memory, 4, [0x10, 0x10 + 64 + 2, 0x100 + 4]));
    device.rings = rings;
    device.live(0)?;
    for _ in 0..9 {
        device.plain()?;
    }
    PASS
}

fn empty_kick(device: &mut Device) -> Verdict {
    for _ in 0..10 {
        device.kick(device.queue());
    }
    device.stays_quiet()?;
    device.plain()?;
    PASS
}
