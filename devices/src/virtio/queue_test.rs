use super::*;
use crate::rig::{self, DATA, DEVICE, DRIVER, RAM, RAM_LEN, Rig, TABLE};
use crate::sync::stop_clock;

const SIZE: u16 = 8;

/// One chain, popped by a fresh queue.
fn pop_one(rig: &Rig, features: u64) -> Result<Chain, QueueError> {
    rig.offer(0);
    Ok(rig.queue(features).pop()?.expect("one is available"))
}

fn broken(rig: &Rig, features: u64) -> QueueError {
    pop_one(rig, features).err().expect("the chain is broken")
}

#[test]
fn an_empty_ring_gives_nothing() {
    let rig = Rig::new(SIZE);
    assert!(rig.queue(0).pop().unwrap().is_none());
}

#[test]
fn a_chain_is_its_readable_then_its_writable_bytes() {
    let rig = Rig::new(SIZE);
    rig.write(DATA, b"abc");
    rig.write(DATA + 100, b"defgh");
    let (r, w) = (0, rig::WRITE);
    rig.chain(
        0,
        &[
            (DATA, 3, r),
            (DATA + 100, 5, r),
            (DATA + 200, 2, w),
            (DATA + 300, 4, w),
        ],
    );
    let mut chain = pop_one(&rig, 0).unwrap();
    assert_eq!(chain.readable().len(), 8);
    assert_eq!(chain.readable().take::<4>(), Some(*b"abcd"));
    let mut rest = [0; 8];
    assert_eq!(chain.readable().read(&mut rest), 4);
    assert_eq!(&rest[..4], b"efgh");
    assert_eq!(chain.readable().take::<1>(), None);
    assert!(chain.writable().split_last());
    assert_eq!(chain.writable().write(b"123456"), 5);
    chain.writable().put_last(b'!');
    assert_eq!(rig.read(DATA + 200, 2), b"12");
    assert_eq!(rig.read(DATA + 300, 4), b"345!");
}

#[test]
fn empty_descriptors_are_skipped() {
    let rig = Rig::new(SIZE);
    rig.write(DATA, b"xy");
    rig.chain(0, &[(0, 0, 0), (DATA, 2, 0), (u64::MAX, 0, rig::WRITE)]);
    let mut chain = pop_one(&rig, 0).unwrap();
    assert_eq!(chain.readable().take::<2>(), Some(*b"xy"));
    assert!(!chain.writable().split_last());
}

#[test]
fn an_indirect_table_may_follow_direct_descriptors_and_its_write_flag_is_ignored() {
    // It need not be aligned.
    for table in [DATA + 0x1008, DATA + 0x1009] {
        follows_direct_descriptors(table);
    }
}

fn follows_direct_descriptors(table: u64) {
    let rig = Rig::new(SIZE);
    rig.write(DATA, b"ab");
    rig.descriptor(0, (DATA, 1), rig::NEXT, 5);
    rig.descriptor(5, (table, 32), rig::INDIRECT | rig::WRITE, 0);
    rig.descriptor_at(table, 0, (DATA + 1, 1), rig::NEXT, 1);
    rig.descriptor_at(table, 1, (DATA + 2, 7), rig::WRITE, 0);
    let mut chain = pop_one(&rig, features::RING_INDIRECT_DESC).unwrap();
    assert_eq!(chain.readable().take::<2>(), Some(*b"ab"));
    assert_eq!(chain.writable().len(), 7);
}

#[test]
fn an_indirect_table_need_be_ram_only_as_far_as_the_chain_goes() {
    let rig = Rig::new(SIZE);
    let table = RAM + RAM_LEN - 16;
    rig.write(DATA, b"a");
    rig.descriptor(0, (table, 32), rig::INDIRECT, 0);
    rig.descriptor_at(table, 0, (DATA, 1), 0, 0);
    let mut chain = pop_one(&rig, features::RING_INDIRECT_DESC).unwrap();
    assert_eq!(chain.readable().take::<1>(), Some(*b"a"));

    rig.descriptor_at(table, 0, (DATA, 1), rig::NEXT, 1);
    let broken = broken(&rig, features::RING_INDIRECT_DESC);
    assert!(
        matches!(broken, QueueError::Indirect { len: 32, .. }),
        "{broken}"
    );
}

#[test]
fn an_indirect_table_may_be_longer_than_the_ring() {
    let rig = Rig::new(2);
    for index in 0..1000 {
        rig.descriptor_at(DATA, index, (DATA, 1), rig::NEXT, index + 1);
    }
    rig.descriptor_at(DATA, 1000, (DATA, 1), 0, 0);
    rig.descriptor(0, (DATA, 16 * 1001), rig::INDIRECT, 0);
    let mut chain = pop_one(&rig, features::RING_INDIRECT_DESC).unwrap();
    assert_eq!(chain.readable().len(), 1001);
}

#[test]
fn a_descriptor_that_points_to_itself_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::NEXT, 0);
    assert_eq!(broken(&rig, 0), QueueError::ChainLength { head: 0, max: 8 });
}

#[test]
fn a_looped_chain_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::NEXT, 1);
    rig.descriptor(1, (DATA, 1), rig::NEXT, 0);
    assert_eq!(broken(&rig, 0), QueueError::ChainLength { head: 0, max: 8 });
}

#[test]
fn a_loop_in_an_indirect_table_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 32), rig::INDIRECT, 0);
    rig.descriptor_at(DATA, 0, (DATA, 1), rig::NEXT, 1);
    rig.descriptor_at(DATA, 1, (DATA, 1), rig::NEXT, 0);
    let broken = broken(&rig, features::RING_INDIRECT_DESC);
    assert_eq!(broken, QueueError::ChainLength { head: 0, max: 2 });
}

#[test]
fn an_endless_indirect_table_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    let len = 16 * 2048;
    rig.descriptor(0, (DATA, len), rig::INDIRECT, 0);
    for index in 0..2048 {
        rig.descriptor_at(DATA, index, (DATA, 1), rig::NEXT, index + 1);
    }
    let broken = broken(&rig, features::RING_INDIRECT_DESC);
    assert_eq!(broken, QueueError::ChainLength { head: 0, max: 1024 });
}

#[test]
fn an_index_outside_its_table_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::NEXT, 8);
    assert_eq!(
        broken(&rig, 0),
        QueueError::DescriptorIndex { index: 8, size: 8 }
    );

    let rig = Rig::new(SIZE);
    rig.offer(u16::MAX);
    let popped = rig.queue(0).pop().err();
    let index = u16::MAX;
    assert_eq!(
        popped,
        Some(QueueError::DescriptorIndex { index: index.into(), size: 8 })
    );

    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 16), rig::INDIRECT, 0);
    rig.descriptor_at(DATA, 0, (DATA, 1), rig::NEXT, 1);
    let max = QueueError::ChainLength { head: 0, max: 1 };
    assert_eq!(broken(&rig, features::RING_INDIRECT_DESC), max);
}

#[test]
fn malformed_indirect_descriptors_break_the_queue() {
    let indirect = rig::INDIRECT;
    let cases: [(u64, (u64, u32), u16); 7] = [
        (0, (DATA, 16), indirect),
        (
            features::RING_INDIRECT_DESC,
            (DATA, 16),
            indirect | rig::NEXT,
        ),
        (features::RING_INDIRECT_DESC, (DATA, 0), indirect),
        (features::RING_INDIRECT_DESC, (DATA, 17), indirect),
        (
            features::RING_INDIRECT_DESC,
            (RAM + RAM_LEN - 8, 16),
            indirect,
        ),
        (features::RING_INDIRECT_DESC, (u64::MAX - 7, 16), indirect),
        (
            features::RING_INDIRECT_DESC,
            (DATA, u32::MAX - 15),
            indirect,
        ),
    ];
    for (features, buffer, flags) in cases {
        let rig = Rig::new(SIZE);
        rig.descriptor(0, buffer, flags, 1);
        rig.descriptor_at(DATA, 0, (DATA, 1), indirect, 0);
        let broken = broken(&rig, features);
        assert!(
            matches!(broken, QueueError::Indirect { .. }),
            "{buffer:x?}: {broken}"
        );
    }
}

#[test]
fn a_buffer_that_is_not_all_ram_breaks_the_queue() {
    let end = RAM + RAM_LEN;
    let buffers = [
        (0, 1),
        (RAM - 1, 2),
        (end - 1, 2),
        (end, 1),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (RAM, u32::MAX),
    ];
    for (address, len) in buffers {
        let rig = Rig::new(SIZE);
        rig.descriptor(0, (address, len), rig::WRITE, 0);
        assert_eq!(broken(&rig, 0), QueueError::Buffer { address, len });
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_breaks_the_queue() {
    let rig = Rig::new(SIZE);
    rig.chain(0, &[(DATA, 1, rig::WRITE), (DATA, 1, 0)]);
    assert_eq!(broken(&rig, 0), QueueError::Order { head: 0 });
}

#[test]
fn an_available_index_out_of_reach_breaks_the_queue() {
    for idx in [SIZE + 1, u16::MAX] {
        let rig = Rig::new(SIZE);
        rig.set_available(idx);
        let popped = rig.queue(0).pop().err();
        let (next, size) = (0, SIZE);
        assert_eq!(popped, Some(QueueError::AvailableIndex { idx, next, size }));
    }
}

#[test]
fn bad_sizes_and_addresses_are_refused_at_activation() {
    for size in [0, 3, 16, 65535] {
        let mut rig = Rig::new(SIZE);
        rig.config.size = size;
        let refused = rig.try_queue(0).err();
        assert_eq!(refused, Some(QueueError::Size { size, max: SIZE }));
    }
    let end = RAM + RAM_LEN;
    let set: [fn(&mut QueueConfig, u64); 3] = [
        |queue, address| queue.descriptors = address,
        |queue, address| queue.driver = address,
        |queue, address| queue.device = address,
    ];
    for set in set {
        for address in [0, RAM + 1, end - 16, end, u64::MAX - 15, u64::MAX] {
            let mut rig = Rig::new(SIZE);
            set(&mut rig.config, address);
            let refused = rig.try_queue(0).err().expect("refused");
            assert!(matches!(refused, QueueError::Area { .. }), "{address:#x}");
        }
    }
}

#[test]
fn the_areas_may_end_where_ram_ends() {
    let mut rig = Rig::new(SIZE);
    let end = RAM + RAM_LEN;
    rig.config.device = end - (4 + 8 * 8 + 2) - 2; // 4-byte aligned
    rig.config.driver = end - 0x100 - (4 + 2 * 8 + 2);
    rig.config.descriptors = end - 0x200 - 16 * 8;
    rig.queue(0);
    rig.config.device += 4;
    assert!(rig.try_queue(0).is_err());
}

#[test]
fn overlapping_areas_do_no_harm() {
    let mut rig = Rig::new(SIZE);
    rig.config.device = rig.config.descriptors;
    rig.config.driver = rig.config.descriptors;
    rig.set_available(0);
    rig.descriptor(0, (DATA, 1), 0, 0);
    let mut queue = rig.queue(FEATURES);
    // Whatever the queue reads, it ends.
    for _ in 0..20 {
        if queue.drain(|_| Some(0)).is_err() {
            break;
        }
    }
}

#[test]
fn flags_at_the_available_index_do_not_make_drain_loop_forever() {
    let mut rig = Rig::new(SIZE);
    // Asking for no kicks makes the index 1, asking for kicks makes it 0.
    rig.config.driver = rig::DEVICE - 2;
    rig.descriptor(0, (DATA, 1), 0, 0);
    let mut queue = rig.queue(0);
    let mut served = 0;
    let drained = queue.drain(|_| {
        served += 1;
        Some(0)
    });
    assert_eq!((drained, served), (Ok(()), 1));
}

#[test]
fn used_elements_are_published_once_per_batch_with_one_interrupt() {
    stop_clock();
    let rig = Rig::new(SIZE);
    let mut queue = rig.queue(0);
    for head in [3, 1, 2] {
        rig.descriptor(head, (DATA, 1), rig::WRITE, 0);
        rig.offer(head);
    }
    let mut served = 0;
    let drained = queue.drain(|_| {
        assert_eq!(rig.used_idx(), 0);
        served += 1;
        Some(10 * served)
    });
    drained.unwrap();
    assert_eq!(rig.used_idx(), 3);
    let used: Vec<_> = (0..3).map(|index| rig.used(index)).collect();
    assert_eq!(used, [(3, 10), (1, 20), (2, 30)]);
    assert_eq!(rig.wire.edges(), 1);
}

#[test]
fn the_indices_wrap_at_65536() {
    let rig = Rig::new(2);
    let mut queue = rig.queue(0);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    for _ in 0..65536 + 5 {
        rig.offer(0);
        queue.drain(|_| Some(1)).unwrap();
    }
    assert_eq!(rig.used_idx(), 5);
    assert_eq!(rig.used(4), (0, 1));
}

#[test]
fn the_no_interrupt_flag_is_honoured() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    let mut queue = rig.queue(0);
    rig.set_driver_flags(NO_NOTIFICATION);
    rig.offer(0);
    queue.drain(|_| Some(0)).unwrap();
    assert_eq!((rig.used_idx(), rig.wire.edges()), (1, 0));
    rig.set_driver_flags(0);
    rig.offer(0);
    queue.drain(|_| Some(0)).unwrap();
    assert_eq!((rig.used_idx(), rig.wire.edges()), (2, 1));
}

#[test]
fn with_event_idx_only_the_entry_asked_for_interrupts() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    let mut queue = rig.queue(features::RING_EVENT_IDX);
    // § 2.7.7.2: with the feature the flag has no meaning.
    rig.set_driver_flags(NO_NOTIFICATION);
    rig.set_used_event(2);
    for (entry, interrupts) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        rig.offer(0);
        queue.drain(|_| Some(0)).unwrap();
        let expected = (entry + 1, interrupts);
        assert_eq!((rig.used_idx(), rig.wire.edges()), expected);
    }
    assert_eq!(rig.device_flags(), 0);
}

#[test]
fn with_event_idx_a_batch_that_passes_the_entry_interrupts() {
    stop_clock();
    for (event, interrupts) in [(0, 1), (2, 1), (3, 0), (u16::MAX, 0)] {
        let rig = Rig::new(SIZE);
        rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
        rig.set_used_event(event);
        (0..3).for_each(|_| rig.offer(0));
        let mut queue = rig.queue(features::RING_EVENT_IDX);
        queue.drain(|_| Some(0)).unwrap();
        assert_eq!(rig.wire.edges(), interrupts, "used_event {event}");
    }
}

#[test]
fn kicks_are_suppressed_while_draining_and_wanted_after() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    rig.offer(0);
    let mut queue = rig.queue(0);
    let drained = queue.drain(|_| {
        assert_eq!(rig.device_flags(), NO_NOTIFICATION);
        Some(0)
    });
    drained.unwrap();
    assert_eq!(rig.device_flags(), 0);

    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    (0..3).for_each(|_| rig.offer(0));
    let mut queue = rig.queue(features::RING_EVENT_IDX);
    queue.drain(|_| Some(0)).unwrap();
    assert_eq!((rig.avail_event(), rig.device_flags()), (3, 0));
}

#[test]
fn a_chain_that_comes_while_draining_is_served_too() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    rig.offer(0);
    let mut more = 3;
    let mut queue = rig.queue(0);
    let drained = queue.drain(|_| {
        if more > 0 {
            more -= 1;
            rig.offer(0);
        }
        Some(0)
    });
    drained.unwrap();
    assert_eq!(rig.used_idx(), 4);
    assert!(!queue.is_unfinished());
}

#[test]
fn a_ring_that_is_refilled_forever_is_left_after_one_lap() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    rig.offer(0);
    let mut queue = rig.queue(0);
    let refill = |_: &mut Chain| {
        rig.offer(0);
        Some(0)
    };
    queue.drain(refill).unwrap();
    assert_eq!(rig.used_idx(), SIZE);
    assert!(queue.is_unfinished());
    queue.drain(|_| Some(0)).unwrap();
    assert_eq!(rig.used_idx(), SIZE + 1);
    assert!(!queue.is_unfinished());
}

#[test]
fn a_stalled_chain_continues_where_it_was() {
    let rig = Rig::new(SIZE);
    rig.write(DATA, b"abcdef");
    rig.chain(0, &[(DATA, 6, 0)]);
    rig.offer(0);
    let mut queue = rig.queue(0);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let drained = queue.drain(|chain| {
            taken.push(chain.readable().take::<2>().unwrap());
            chain.readable().is_empty().then_some(0)
        });
        drained.unwrap();
    }
    assert_eq!(taken.concat(), b"abcdef");
    assert_eq!(rig.used_idx(), 1);
    // While it waited no kick was wanted; now it is.
    assert_eq!(rig.device_flags(), 0);
}

#[test]
fn chains_served_before_an_invalid_one_are_published() {
    let rig = Rig::new(SIZE);
    rig.descriptor(0, (DATA, 1), rig::WRITE, 0);
    rig.offer(0);
    rig.offer(99);
    let mut queue = rig.queue(0);
    assert!(queue.drain(|_| Some(0)).is_err());
    assert_eq!((rig.used_idx(), rig.wire.edges()), (1, 1));
}

#[test]
fn a_size_rewritten_after_activation_changes_nothing() {
    let mut rig = Rig::new(SIZE);
    let mut queue = rig.queue(0);
    rig.config.size = 32768;
    rig.set_available(SIZE + 1);
    assert!(queue.pop().is_err());
    assert_eq!(queue.size(), SIZE);
    let _ = (TABLE, DRIVER, DEVICE);
}

#[test]
fn rings_of_any_size_up_to_the_largest_are_served_whole() {
    for size in [1_u16, 1024, SIZE_MAX] {
        let mut rig = Rig::new(size);
        let (driver, device) = (RAM + 0x8_0000, RAM + 0xa_0000);
        rig.config.descriptors = RAM;
        rig.config.driver = driver;
        rig.config.device = device;
        for head in 0..size {
            let buffer = (RAM + 0xf_0000, 1);
            rig.descriptor_at(RAM, head, buffer, rig::WRITE, 0);
            let slot = driver + 4 + 2 * u64::from(head);
            rig.write(slot, &(size - 1 - head).to_le_bytes());
        }
        rig.write(driver + 2, &size.to_le_bytes());
        rig.queue(FEATURES).drain(|_| Some(3)).unwrap();
        assert_eq!(rig.u16(device + 2), size);
        let last = device + 4 + 8 * u64::from(size - 1);
        assert_eq!((rig.u32(last), rig.u32(last + 4)), (0, 3));
        assert_eq!(rig.u32(device + 4), u32::from(size - 1));
    }
}
