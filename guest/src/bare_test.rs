//! The hand-written ring with the model of a device.

use super::{Descriptor, INDIRECT, NEXT, Ring, WRITE, describe, link};
use crate::model::{self, Device, Memory};
use crate::virtio::{device, status};

const SIZE: u16 = 8;

/// The model's view of a ring.
fn model(ring: &Ring) -> model::Ring {
    model::Ring {
        size: ring.size(),
        descriptors: ring.descriptors().bus(),
        driver: ring.driver().bus(),
        device: ring.device().bus(),
        next_avail: 0,
        used: 0,
    }
}

#[test]
fn a_linked_chain_is_what_the_device_finds() {
    let memory = Memory::new();
    let region = memory.dma().alloc(Ring::bytes(SIZE)).unwrap();
    let ring = Ring::new(&region, SIZE);
    let chain = [
        Descriptor::readable(0x8000_1000, 16),
        Descriptor::writable(0x8000_2000, 512),
        Descriptor::writable(0x8000_3000, 1),
    ];
    link(ring.descriptors(), 4, &chain);
    ring.offer(&[4]);
    let found = model(&ring).pop(&memory).unwrap();
    assert_eq!(found.head, 4);
    let flags: std::vec::Vec<_> = found.segments.iter().map(|it| it.flags).collect();
    assert_eq!(flags, [NEXT, WRITE | NEXT, WRITE]);
    assert_eq!(found.writable(), 513);
}

#[test]
fn a_descriptor_may_be_as_wrong_as_wished() {
    let memory = Memory::new();
    let region = memory.dma().alloc(Ring::bytes(SIZE)).unwrap();
    let ring = Ring::new(&region, SIZE);
    let wrong = Descriptor::writable(u64::MAX, u32::MAX)
        .with(INDIRECT)
        .then(0xffff);
    describe(ring.descriptors(), 7, wrong);
    let found = model::Ring::descriptor(&memory, ring.descriptors().bus(), 7);
    assert_eq!((found.address, found.len), (u64::MAX, u32::MAX));
    assert_eq!((found.flags, found.next), (NEXT | WRITE | INDIRECT, 0xffff));
}

#[test]
fn the_indices_wrap_and_the_slots_with_them() {
    let memory = Memory::new();
    let region = memory.dma().alloc(Ring::bytes(SIZE)).unwrap();
    let ring = Ring::new(&region, SIZE);
    link(ring.descriptors(), 3, &[Descriptor::readable(0, 1)]);
    ring.set_available(u16::MAX);
    ring.offer(&[3, 3]);
    assert_eq!(ring.available(), 1);
    let mut device = model::Ring { next_avail: u16::MAX, used: u16::MAX, ..model(&ring) };
    for len in [77, 78] {
        let head = device.pop(&memory).unwrap().head;
        device.push(&memory, head.into(), len);
    }
    assert_eq!(ring.used(), 1);
    assert_eq!(
        (ring.element(u16::MAX), ring.element(0)),
        ((3, 77), (3, 78))
    );
}

#[test]
fn each_side_sees_the_wishes_of_the_other() {
    let memory = Memory::new();
    let region = memory.dma().alloc(Ring::bytes(SIZE)).unwrap();
    let ring = Ring::new(&region, SIZE);
    ring.set_flags(1);
    ring.set_used_event(0x1234);
    let device = model(&ring);
    assert_eq!(device.avail_flags(&memory), 1);
    assert_eq!(device.used_event(&memory), 0x1234);
    device.set_used_flags(&memory, 1);
    device.set_avail_event(&memory, 0x4321);
    assert_eq!((ring.used_flags(), ring.avail_event()), (1, 0x4321));
}

#[test]
fn an_attached_ring_is_enabled_where_it_lies() {
    let memory = Memory::new();
    let region = memory.dma().alloc(Ring::bytes(SIZE)).unwrap();
    let ring = Ring::at(&region, SIZE, [0x10, 0x1002, 0x2004]);
    let registers = Device::new(&memory, device::BLOCK, 0, |_, _, _| {});
    registers.state.borrow_mut().status = status::FEATURES_OK;
    ring.announce(&registers, 1);
    assert!(!registers.state.borrow().ready[1]);
    ring.attach(&registers, 1);
    let state = registers.state.borrow();
    assert!(state.ready[1]);
    let found = state.rings[1];
    assert_eq!(found.size, SIZE);
    assert_eq!(found.descriptors, region.bus() + 0x10);
    assert_eq!(found.driver, region.bus() + 0x1002);
    assert_eq!(found.device, region.bus() + 0x2004);
}
