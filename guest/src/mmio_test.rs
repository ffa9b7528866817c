use std::vec::Vec;

use super::{Registers, Transport, acknowledge, offset};
use crate::Error;
use crate::model::{BUS, Device, Memory};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
use crate::virtio::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};

fn device(memory: &Memory, offered: u64) -> Device<'_> {
    Device::new(memory, 2, offered, |_, _, _| {})
}

#[test]
fn an_empty_slot_is_no_error() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().id = 0;
    assert!(Transport::probe(&device).unwrap().is_none());
    assert_eq!(
        device.state.borrow().written,
        [],
        "an empty slot must be left alone"
    );
}

#[test]
fn a_wrong_magic_or_version_is_named() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().version = 1;
    assert_eq!(Transport::probe(&device).unwrap_err(), Error::Version(1));
    device.state.borrow_mut().magic = 0x1234;
    assert_eq!(Transport::probe(&device).unwrap_err(), Error::Magic(0x1234));
}

#[test]
fn initialisation_follows_the_order_of_the_specification() {
    let memory = Memory::new();
    let device = device(&memory, INDIRECT_DESC);
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    transport.negotiate(INDIRECT_DESC).unwrap();
    let queue = transport.queue(1, 16, &mut memory.dma()).unwrap();
    transport.start();
    let state = device.state.borrow();
    let statuses =
        |(register, value): &(usize, u32)| (*register == offset::STATUS).then_some(*value);
    let statuses: Vec<_> = state.written.iter().filter_map(statuses).collect();
    let ready = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    assert_eq!(
        statuses,
        [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ready,
            ready | DRIVER_OK
        ]
    );
    assert_eq!(state.ready, [false, true, false]);
    let ring = state.rings[1];
    assert_eq!(
        (ring.size, ring.descriptors, ring.driver, ring.device),
        (
            16,
            queue.descriptor_area(),
            queue.driver_area(),
            queue.device_area()
        )
    );
    assert!(ring.descriptors >= BUS);
}

#[test]
fn only_offered_and_wanted_features_are_accepted() {
    let memory = Memory::new();
    let device = device(&memory, INDIRECT_DESC | 1 << 50);
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    let agreed = INDIRECT_DESC | VERSION_1;
    assert_eq!(transport.negotiate(INDIRECT_DESC | EVENT_IDX), Ok(agreed));
    assert_eq!(transport.features(), agreed);
    assert_eq!(device.state.borrow().accepted, agreed);
    // Again, after another reset, with other features.
    assert_eq!(transport.negotiate(1 << 50), Ok(1 << 50 | VERSION_1));
    assert_eq!(device.state.borrow().accepted, 1 << 50 | VERSION_1);
}

#[test]
fn a_device_without_version_1_is_given_up() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().offered = INDIRECT_DESC;
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    assert_eq!(transport.negotiate(0), Err(Error::Legacy(INDIRECT_DESC)));
    assert_eq!(transport.status() & FAILED, FAILED);
}

#[test]
fn refused_features_are_an_error_and_the_device_is_given_up() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().refuse = true;
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    assert_eq!(
        transport.negotiate(0),
        Err(Error::FeaturesRefused(VERSION_1))
    );
    assert_eq!(transport.status() & FAILED, FAILED);
    assert_eq!(transport.features(), 0);
}

#[test]
fn a_slow_reset_is_waited_for_and_an_endless_one_is_not() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    transport.negotiate(0).unwrap();
    device.state.borrow_mut().slow_reset = 1000;
    assert_eq!(transport.reset(), Ok(()));
    transport.negotiate(0).unwrap();
    device.state.borrow_mut().slow_reset = u32::MAX;
    let stuck = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    assert_eq!(transport.reset(), Err(Error::Reset(stuck)));
}

#[test]
fn a_queue_that_is_absent_or_in_use_is_refused() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    let mut dma = memory.dma();
    transport.negotiate(0).unwrap();
    transport.queue(0, 16, &mut dma).unwrap();
    assert_eq!(
        transport.queue(0, 16, &mut dma).unwrap_err(),
        Error::QueueUnavailable(0)
    );
    device.state.borrow_mut().queue_size_max = 0;
    assert_eq!(
        transport.queue(1, 16, &mut dma).unwrap_err(),
        Error::QueueUnavailable(1)
    );
}

#[test]
fn a_queue_is_no_larger_than_the_device_allows() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().queue_size_max = 24;
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    transport.negotiate(0).unwrap();
    assert_eq!(
        transport.queue(0, 64, &mut memory.dma()).unwrap().size(),
        16
    );
}

#[test]
fn a_torn_configuration_is_read_again_but_not_for_ever() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    device.state.borrow_mut().config[..8].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
    let transport = Transport::probe(&device).unwrap().unwrap();
    device.state.borrow_mut().torn_reads = 7;
    assert_eq!(transport.config_u64(0), Ok(0x0102_0304_0506_0708));
    assert_eq!(device.state.borrow().torn_reads, 0);
    device.state.borrow_mut().torn_reads = u32::MAX;
    assert_eq!(transport.config_u64(0), Err(Error::ConfigUnstable));
}

#[test]
fn a_device_that_needs_a_reset_is_not_alive() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    let mut transport = Transport::probe(&device).unwrap().unwrap();
    transport.negotiate(0).unwrap();
    transport.start();
    assert_eq!(transport.alive(), Ok(()));
    device.state.borrow_mut().status |= 64;
    assert_eq!(transport.alive(), Err(Error::NeedsReset(0x4f)));
}

#[test]
fn exactly_what_was_pending_is_acknowledged() {
    let memory = Memory::new();
    let device = device(&memory, 0);
    assert_eq!(acknowledge(&device), 0);
    assert_eq!(device.state.borrow().written, [], "nothing to acknowledge");
    device.state.borrow_mut().interrupt_status = 3;
    assert_eq!(acknowledge(&device), 3);
    assert_eq!(device.read(offset::INTERRUPT_STATUS), 0);
}
