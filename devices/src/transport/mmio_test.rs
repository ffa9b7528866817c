use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::rig::{self, DATA, DEVICE, DRIVER, RAM, Rig, TABLE, Wire};
use crate::virtio::{QueueError, Queues};

/// Counts chains, and answers each with 7 bytes.
struct Probe {
    served: Arc<AtomicUsize>,
    resets: Arc<AtomicUsize>,
}

impl VirtioDevice for Probe {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn queues(&self) -> &[u16] {
        &[8, 4]
    }

    fn features(&self) -> u64 {
        1 << 9
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(vec![1, 2, 3, 4, 5, 6])
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(index) else {
            return Ok(());
        };
        queue.drain(|_| {
            self.served.fetch_add(1, Ordering::SeqCst);
            Some(7)
        })
    }

    fn reset(&mut self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

struct Fixture {
    rig: Rig,
    wire: Wire,
    mmio: Mmio,
    served: Arc<AtomicUsize>,
    resets: Arc<AtomicUsize>,
    /// The features that `go_live` negotiates.
    features: u64,
}

fn fixture() -> Fixture {
    let rig = Rig::new(8);
    let wire = Wire::default();
    let (served, resets) = (Arc::default(), Arc::default());
    let probe = Probe { served: Arc::clone(&served), resets: Arc::clone(&resets) };
    let mmio = Mmio::new(Box::new(probe), rig.memory.clone(), Box::new(wire.clone()));
    Fixture { mmio: mmio.unwrap(), rig, wire, served, resets, features: features::VERSION_1 }
}

/// Waits for the device's thread; fails after ten seconds.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        std::thread::yield_now();
    }
}

const NEGOTIATED: u32 = (status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK) as u32;
const LIVE: u32 = NEGOTIATED | status::DRIVER_OK as u32;
const RESETTABLE: u64 = features::VERSION_1 | features::RING_RESET;
const NEEDS_RESET: u32 = status::DEVICE_NEEDS_RESET as u32;

impl Fixture {
    fn get(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    fn accept(&self, features: u64) {
        self.set(register::DRIVER_FEATURES_SEL, 0);
        self.set(register::DRIVER_FEATURES, half(features, 0));
        self.set(register::DRIVER_FEATURES_SEL, 1);
        self.set(register::DRIVER_FEATURES, half(features, 1));
    }

    fn negotiate(&self, features: u64) -> u32 {
        self.set(register::STATUS, 1);
        self.set(register::STATUS, 3);
        self.accept(features);
        self.set(register::STATUS, NEGOTIATED);
        self.get(register::STATUS)
    }

    fn set_up_queue(&self, index: u32) {
        self.set(register::QUEUE_SEL, index);
        self.set(register::QUEUE_SIZE, 4);
        self.set(register::QUEUE_DESC_LOW, half(TABLE, 0));
        self.set(register::QUEUE_DRIVER_LOW, half(DRIVER, 0));
        self.set(register::QUEUE_DEVICE_LOW, half(DEVICE, 0));
        self.set(register::QUEUE_READY, 1);
    }

    /// A live device with queue 0.
    fn go_live(&mut self) {
        self.rig.config.size = 4;
        assert_eq!(self.negotiate(self.features), NEGOTIATED);
        self.set_up_queue(0);
        self.set(register::STATUS, LIVE);
        assert_eq!(self.get(register::STATUS), LIVE);
    }

    fn offer_and_kick(&self) {
        self.rig.descriptor(0, (DATA, 64), rig::WRITE, 0);
        self.rig.offer(0);
        self.set(register::QUEUE_NOTIFY, 0);
    }
}

#[test]
fn the_constant_registers_identify_the_device() {
    let fixture = fixture();
    assert_eq!(fixture.get(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(fixture.get(register::VERSION), 2);
    assert_eq!(fixture.get(register::DEVICE_ID), 2);
    assert_eq!(fixture.get(register::VENDOR_ID).to_le_bytes(), *b"QEMU");
    fixture.set(register::DEVICE_FEATURES_SEL, 0);
    assert_eq!(
        fixture.get(register::DEVICE_FEATURES),
        1 << 9 | 1 << 28 | 1 << 29
    );
    fixture.set(register::DEVICE_FEATURES_SEL, 1);
    assert_eq!(fixture.get(register::DEVICE_FEATURES), 1 | 1 << 8);
    fixture.set(register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(fixture.get(register::DEVICE_FEATURES), 0);
    for region in [0, 1, 255, u32::MAX] {
        fixture.set(0xac, region);
        for shm in [0xb0, 0xb4, 0xb8, 0xbc] {
            assert_eq!(fixture.get(shm), u32::MAX);
        }
    }
}

#[test]
fn a_request_is_served_and_interrupts_until_acknowledged() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the interrupt", || fixture.wire.is_high());
    assert_eq!(fixture.get(register::INTERRUPT_STATUS), 1);
    assert_eq!(fixture.rig.used(0), (0, 7));
    fixture.set(register::INTERRUPT_ACK, 2);
    assert!(fixture.wire.is_high());
    fixture.set(register::INTERRUPT_ACK, 1);
    assert!(!fixture.wire.is_high());
    assert_eq!(fixture.get(register::INTERRUPT_STATUS), 0);
}

#[test]
fn a_chain_made_available_before_driver_ok_waits_for_it() {
    let mut fixture = fixture();
    fixture.rig.config.size = 4;
    fixture.negotiate(features::VERSION_1);
    fixture.set_up_queue(0);
    fixture.offer_and_kick();
    assert_eq!(fixture.served.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.rig.used_idx(), 0);
    fixture.set(register::STATUS, LIVE);
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
}

#[test]
fn features_that_were_not_offered_or_lack_version_1_are_refused() {
    for wrong in [
        0,
        1 << 9,
        features::VERSION_1 | 1,
        features::VERSION_1 | 1 << 63,
    ] {
        let fixture = fixture();
        assert_eq!(fixture.negotiate(wrong), 3, "{wrong:#x}");
        // DRIVER_OK without FEATURES_OK is not a valid transition.
        fixture.set(register::STATUS, LIVE);
        assert_eq!(fixture.get(register::STATUS), 3);
        // Another attempt, after a reset or not.
        assert_eq!(fixture.negotiate(features::VERSION_1), NEGOTIATED);
        fixture.set(register::STATUS, 0);
        assert_eq!(fixture.negotiate(features::VERSION_1 | 1 << 9), NEGOTIATED);
    }
}

#[test]
fn features_are_frozen_by_features_ok() {
    let fixture = fixture();
    fixture.negotiate(features::VERSION_1);
    fixture.accept(u64::MAX);
    assert_eq!(fixture.mmio.setup().accepted, features::VERSION_1);
}

#[test]
fn status_bits_come_in_order_and_only_a_reset_clears_them() {
    let fixture = fixture();
    for (written, seen) in [(4, 0), (8, 0), (1, 1), (4, 1), (3, 3), (1, 3), (7, 3)] {
        fixture.set(register::STATUS, written);
        assert_eq!(fixture.get(register::STATUS), seen, "wrote {written}");
    }
    fixture.set(register::STATUS, 0x83);
    assert_eq!(fixture.get(register::STATUS), 0x83);
    fixture.set(register::STATUS, 0xffff_ff00);
    assert_eq!(fixture.get(register::STATUS), 0x83);
    fixture.set(register::STATUS, 0);
    assert_eq!(fixture.get(register::STATUS), 0);
}

#[test]
fn a_driver_that_forgets_acknowledge_is_served_all_the_same() {
    let fixture = fixture();
    let (driver, features_ok) = (u32::from(status::DRIVER), u32::from(status::FEATURES_OK));
    fixture.set(register::STATUS, driver);
    fixture.accept(features::VERSION_1);
    fixture.set(register::STATUS, driver | features_ok);
    assert_eq!(fixture.get(register::STATUS), driver | features_ok);
    fixture.set(register::STATUS, driver | features_ok | 1);
    assert_eq!(fixture.get(register::STATUS), NEGOTIATED);
}

#[test]
fn queue_registers_are_frozen_while_the_queue_is_ready() {
    let fixture = fixture();
    fixture.negotiate(features::VERSION_1);
    fixture.set_up_queue(0);
    let before = fixture.mmio.setup().queues[0].clone();
    fixture.set(register::QUEUE_SIZE, 2);
    for offset in [0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        fixture.set(offset, 0x1234_5678);
    }
    let after = fixture.mmio.setup().queues[0].clone();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}

#[test]
fn an_absent_queue_reads_as_zero_and_ignores_writes() {
    let fixture = fixture();
    fixture.negotiate(features::VERSION_1);
    for index in [2, 255, u32::MAX] {
        fixture.set(register::QUEUE_SEL, index);
        for offset in (0x34..0x100).step_by(4) {
            if !matches!(offset, register::STATUS | register::QUEUE_NOTIFY) {
                fixture.set(offset, u32::MAX);
            }
        }
        assert_eq!(fixture.get(register::QUEUE_SIZE_MAX), 0);
        assert_eq!(fixture.get(register::QUEUE_READY), 0);
        fixture.set(register::QUEUE_NOTIFY, index);
    }
    fixture.set(register::QUEUE_SEL, 1);
    assert_eq!(fixture.get(register::QUEUE_SIZE_MAX), 4);
    assert_eq!(fixture.get(register::QUEUE_READY), 0);
}

#[test]
fn an_invalid_queue_makes_the_device_need_a_reset() {
    let set_ups: [&[(u64, u32)]; 4] = [
        &[(register::QUEUE_SIZE, 3)],
        &[(register::QUEUE_SIZE, 0x1_0004)],
        &[(register::QUEUE_DESC_LOW, half(TABLE, 0) + 8)],
        &[(register::QUEUE_DEVICE_HIGH, u32::MAX)],
    ];
    for set_up in set_ups {
        let fixture = fixture();
        fixture.negotiate(features::VERSION_1);
        fixture.set_up_queue(0);
        fixture.set(register::QUEUE_READY, 0);
        set_up
            .iter()
            .for_each(|&(offset, value)| fixture.set(offset, value));
        fixture.set(register::QUEUE_READY, 1);
        fixture.set(register::STATUS, LIVE);
        assert_eq!(
            fixture.get(register::STATUS),
            LIVE | NEEDS_RESET,
            "{set_up:x?}"
        );
        assert_eq!(fixture.get(register::INTERRUPT_STATUS), 2);
        assert!(fixture.wire.is_high());
        fixture.offer_and_kick();
        fixture.set(register::STATUS, 0);
        assert_eq!(fixture.get(register::STATUS), 0);
        assert!(!fixture.wire.is_high());
        assert_eq!(fixture.served.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn an_invalid_ring_needs_a_reset_and_is_not_served_until_then() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.rig.offer(99);
    fixture.set(register::QUEUE_NOTIFY, 0);
    wait_for("DEVICE_NEEDS_RESET", || {
        fixture.get(register::STATUS) == LIVE | NEEDS_RESET
    });
    wait_for("its interrupt", || {
        fixture.get(register::INTERRUPT_STATUS) == 2
    });
    fixture.set(register::STATUS, 0);
    fixture.rig.write(DRIVER, &[0; 64]);
    fixture.rig.write(DEVICE, &[0; 64]);
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_reset_leaves_the_rings_alone_and_sets_every_register_to_its_initial_value() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the interrupt", || fixture.wire.is_high());
    fixture.set(register::STATUS, 0);
    assert_eq!(fixture.resets.load(Ordering::SeqCst), 1);
    assert!(!fixture.wire.is_high());
    for offset in [
        register::STATUS,
        register::INTERRUPT_STATUS,
        register::QUEUE_READY,
    ] {
        assert_eq!(fixture.get(offset), 0);
    }
    let before = fixture.rig.read(RAM, 0x8000);
    fixture.set(register::QUEUE_NOTIFY, 0);
    let notified = fixture.rig.read(RAM, 0x8000);
    assert_eq!(fixture.served.load(Ordering::SeqCst), 1);
    assert_eq!(before, notified);
}

/// § 4.2.2.2: the device does not access a queue whose QueueReady is 0.
#[test]
fn a_queue_disabled_while_live_is_no_longer_served() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.set(register::QUEUE_READY, 0);
    assert_eq!(fixture.get(register::QUEUE_READY), 0);
    fixture.offer_and_kick();
    fixture.mmio.stop();
    assert_eq!(
        (
            fixture.rig.used_idx(),
            fixture.served.load(Ordering::SeqCst)
        ),
        (0, 0)
    );
}

#[test]
fn a_queue_enabled_again_while_live_starts_from_the_beginning() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
    fixture.set(register::QUEUE_READY, 0);
    fixture.rig.write(DRIVER, &[0; 64]);
    fixture.rig.write(DEVICE, &[0; 64]);
    fixture.set_up_queue(0);
    assert_eq!(fixture.get(register::QUEUE_READY), 1);
    fixture.offer_and_kick();
    wait_for("another", || fixture.served.load(Ordering::SeqCst) == 2);
    wait_for("its place", || fixture.rig.used_idx() == 1);
    assert_eq!(fixture.get(register::STATUS), LIVE);
}

#[test]
fn a_queue_reset_needs_the_feature_and_the_value_one() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.set(register::QUEUE_RESET, 1);
    assert_eq!(fixture.get(register::QUEUE_READY), 1, "not negotiated");
    fixture.set(register::STATUS, 0);
    fixture.features = RESETTABLE;
    fixture.go_live();
    for value in [0, 2, u32::MAX] {
        fixture.set(register::QUEUE_RESET, value);
        assert_eq!(fixture.get(register::QUEUE_READY), 1, "wrote {value:#x}");
    }
    fixture.set(register::QUEUE_SEL, 7);
    fixture.set(register::QUEUE_RESET, 1);
    fixture.set(register::QUEUE_SEL, 0);
    assert_eq!(fixture.get(register::QUEUE_READY), 1, "another queue's");
    fixture.set(register::QUEUE_RESET, 1);
    assert_eq!(fixture.get(register::QUEUE_READY), 0);
    assert_eq!(fixture.get(register::QUEUE_RESET), 0);
    let queue = fixture.mmio.setup().queues[0].clone();
    assert_eq!(format!("{queue:?}"), format!("{:?}", QueueConfig::new(8)));
    fixture.offer_and_kick();
    fixture.mmio.stop();
    let (used, served) = (
        fixture.rig.used_idx(),
        fixture.served.load(Ordering::SeqCst),
    );
    assert_eq!((used, served), (0, 0), "nothing of it is executed");
    assert!(!fixture.wire.is_high(), "or notified");
}

/// § 2.6.1: re-enabling uses the new configuration.
#[test]
fn a_queue_that_was_reset_may_return_smaller_and_at_other_addresses() {
    const AWAY: u64 = 0x2_0000;
    let mut fixture = fixture();
    fixture.features = RESETTABLE;
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
    fixture.set(register::QUEUE_RESET, 1);
    fixture.set(register::QUEUE_SIZE, 2);
    fixture.set(register::QUEUE_DESC_LOW, half(TABLE + AWAY, 0));
    fixture.set(register::QUEUE_DRIVER_LOW, half(DRIVER + AWAY, 0));
    fixture.set(register::QUEUE_DEVICE_LOW, half(DEVICE + AWAY, 0));
    fixture.set(register::QUEUE_READY, 1);
    let old = fixture.rig.read(DEVICE, 0x100);
    let entry = (DATA, 64);
    fixture
        .rig
        .descriptor_at(TABLE + AWAY, 1, entry, rig::WRITE, 0);
    for idx in 1..=3_u16 {
        let slot = u64::from((idx - 1) % 2);
        fixture
            .rig
            .write(DRIVER + AWAY + 4 + 2 * slot, &1_u16.to_le_bytes());
        fixture.rig.write(DRIVER + AWAY + 2, &idx.to_le_bytes());
        fixture.set(register::QUEUE_NOTIFY, 0);
        wait_for("its place", || fixture.rig.u16(DEVICE + AWAY + 2) == idx);
    }
    assert_eq!(
        fixture.rig.read(DEVICE, 0x100),
        old,
        "the old ring is let go"
    );
}

#[test]
fn a_queue_that_returns_invalid_makes_the_device_need_a_reset() {
    let mut fixture = fixture();
    fixture.features = RESETTABLE;
    fixture.go_live();
    fixture.set(register::QUEUE_RESET, 1);
    fixture.set(register::QUEUE_SIZE, 3);
    fixture.set(register::QUEUE_READY, 1);
    assert_eq!(fixture.get(register::STATUS), LIVE | NEEDS_RESET);
    assert_eq!(fixture.get(register::INTERRUPT_STATUS), 2);
    fixture.set(register::STATUS, 0);
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
}

#[test]
fn odd_stores_have_no_effect_and_odd_loads_return_the_bytes_at_their_offset() {
    let fixture = fixture();
    fixture.negotiate(features::VERSION_1);
    for width in [1, 2, 3, 8] {
        for offset in [0, 1, 2, 4, 0x70, 0x71, 0xfc, 0xfe] {
            let mut data = vec![0; width];
            fixture.mmio.read(offset, &mut data);
            fixture.mmio.write(offset, &vec![0; width]);
        }
    }
    let mut data = [0; 8];
    fixture.mmio.read(2, &mut data);
    assert_eq!(data, [b'r', b't', 2, 0, 0, 0, 2, 0]);
    assert_eq!(fixture.get(register::STATUS), NEGOTIATED);
    for offset in (0..0x100)
        .step_by(4)
        .filter(|&offset| offset != register::STATUS)
    {
        fixture.get(offset);
        fixture.set(offset, u32::MAX);
    }
    assert_eq!(fixture.get(register::STATUS), NEGOTIATED);
}

#[test]
fn the_configuration_has_natural_widths_and_an_end() {
    let fixture = fixture();
    let read = |offset, width: usize| {
        let mut data = vec![0; width];
        fixture.mmio.read(register::CONFIG + offset, &mut data);
        data
    };
    assert_eq!(read(0, 1), [1]);
    assert_eq!(read(2, 2), [3, 4]);
    assert_eq!(read(0, 4), [1, 2, 3, 4]);
    assert_eq!(read(4, 4), [5, 6, 0, 0]);
    assert_eq!(read(0xe00, 4), [0; 4]);
}

#[test]
fn a_hundred_thousand_kicks_and_resets_under_load_do_no_harm() {
    let mut fixture = fixture();
    fixture.go_live();
    for _ in 0..100_000 {
        fixture.set(register::QUEUE_NOTIFY, 0);
    }
    for _ in 0..200 {
        fixture.offer_and_kick();
        fixture.set(register::STATUS, 0);
        fixture.rig.write(DRIVER, &[0; 64]);
        fixture.rig.write(DEVICE, &[0; 64]);
        fixture.go_live();
    }
    let before = fixture.served.load(Ordering::SeqCst);
    fixture.offer_and_kick();
    wait_for("the request", || {
        fixture.served.load(Ordering::SeqCst) == before + 1
    });
}

#[test]
fn dropping_a_live_device_ends_its_thread() {
    let mut fixture = fixture();
    fixture.go_live();
    fixture.offer_and_kick();
    wait_for("the request", || fixture.served.load(Ordering::SeqCst) == 1);
    drop(fixture.mmio);
    assert_eq!(
        Arc::strong_count(&fixture.served),
        1,
        "the device was dropped"
    );
}

/// A driver that maps the page may read the status during a reset on another vCPU: it is 0 only
/// once the device no longer uses the rings.
#[test]
fn when_the_status_reads_0_the_rings_are_not_in_use() {
    let mut fixture = fixture();
    for _ in 0..200 {
        fixture.go_live();
        fixture.offer_and_kick();
        std::thread::scope(|scope| {
            scope.spawn(|| fixture.set(register::STATUS, 0));
            while fixture.get(register::STATUS) != 0 {
                std::thread::yield_now();
            }
            fixture.rig.write(DEVICE, &[0x5a; 64]);
            fixture.rig.write(DRIVER, &[0; 64]);
        });
        assert_eq!(fixture.rig.read(DEVICE, 64), [0x5a; 64]);
        fixture.rig.write(DEVICE, &[0; 64]);
    }
}

/// The device's thread sets DEVICE_NEEDS_RESET while vCPUs set and clear the other bits.
#[test]
fn concurrent_changes_of_the_status_are_not_lost() {
    let mut fixture = fixture();
    for _ in 0..200 {
        fixture.go_live();
        fixture.rig.set_available(1000);
        fixture.set(register::QUEUE_NOTIFY, 0);
        fixture.set(register::STATUS, LIVE | u32::from(status::FAILED));
        let all = LIVE | u32::from(status::FAILED) | NEEDS_RESET;
        wait_for("the worker", || fixture.get(register::STATUS) == all);
        // The interrupt comes after the status that caused it.
        wait_for("its interrupt", || {
            fixture.get(register::INTERRUPT_STATUS) == 2
        });
        fixture.set(register::STATUS, 0);
        assert_eq!(fixture.get(register::STATUS), 0);
        assert_eq!(fixture.get(register::INTERRUPT_STATUS), 0);
        fixture.rig.write(DRIVER, &[0; 64]);
    }
}

#[test]
fn a_changed_configuration_appears_between_two_generations() {
    let fixture = fixture();
    let before = fixture.get(register::CONFIG_GENERATION);
    fixture.mmio.config_changed();
    assert_eq!(fixture.get(register::CONFIG_GENERATION), before + 2);
    assert_eq!(fixture.get(register::CONFIG), 0x0403_0201);
    assert_eq!(
        fixture.get(register::INTERRUPT_STATUS),
        0,
        "nobody drives it"
    );
}
