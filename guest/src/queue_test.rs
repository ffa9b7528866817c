#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::vec::Vec;

use super::{INDIRECT_ENTRIES, needs_event};
use crate::model::{BUS, Memory, Ring};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::{Error, Layout, Queue, Segment};

fn queue(memory: &Memory, size: u16, features: u64) -> (Queue, Ring) {
    let queue = Queue::new(&mut memory.dma(), 0, size, features).unwrap();
    let ring = Ring::of(&queue);
    (queue, ring)
}

fn readable(address: u64, len: u32) -> Segment {
    Segment { address, len, writable: false }
}

fn writable(address: u64, len: u32) -> Segment {
    Segment { address, len, writable: true }
}

/// Adds a chain of one segment and shows it to the device.
fn submit(queue: &mut Queue, segment: Segment) {
    queue.add(&[segment]).unwrap();
    let _ = queue.publish();
}

#[test]
fn the_size_is_a_power_of_two_within_limits() {
    for (wanted, size) in [
        (1, 1),
        (2, 2),
        (3, 2),
        (100, 64),
        (256, 256),
        (u16::MAX, 256),
    ] {
        let memory = Memory::new();
        assert_eq!(queue(&memory, wanted, 0).0.size(), size);
    }
    let memory = Memory::new();
    let none = Queue::new(&mut memory.dma(), 3, 0, 0).unwrap_err();
    assert_eq!(none, Error::QueueUnavailable(3));
}

#[test]
fn the_areas_have_the_alignment_of_the_specification_and_do_not_overlap() {
    let memory = Memory::new();
    let (queue, _) = queue(&memory, 256, INDIRECT_DESC);
    let areas = [
        (queue.descriptor_area(), 16, 16 * 256),
        (queue.driver_area(), 2, 6 + 2 * 256),
        (queue.device_area(), 4, 6 + 8 * 256),
    ];
    for (start, align, _) in areas {
        assert_eq!(start % align, 0);
    }
    for window in areas.windows(2) {
        assert!(window[0].0 + window[0].2 <= window[1].0);
    }
}

#[test]
fn a_chain_reaches_the_device_as_it_was_given() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 8, 0);
    queue
        .add(&[readable(0x100, 16), readable(0x200, 5), writable(0x300, 1)])
        .unwrap();
    assert_eq!(ring.pop(&memory), None, "not published yet");
    assert!(queue.publish());
    let chain = ring.pop(&memory).unwrap();
    let found: Vec<_> = chain
        .segments
        .iter()
        .map(|found| (found.address, found.len, found.flags))
        .collect();
    assert_eq!(found, [(0x100, 16, 1), (0x200, 5, 1), (0x300, 1, 2)]);
    assert_eq!(queue.free(), 5);
}

#[test]
fn an_indirect_chain_takes_one_descriptor_and_a_table_without_gaps() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 8, INDIRECT_DESC);
    queue
        .add(&[readable(0x100, 16), writable(0x200, 5), writable(0x300, 1)])
        .unwrap();
    assert!(queue.publish());
    assert_eq!(queue.free(), 7);
    let head = Ring::descriptor(&memory, ring.descriptors, 0);
    // INDIRECT alone: no NEXT, and WRITE has no meaning there.
    assert_eq!((head.len, head.flags), (48, 4));
    let table: Vec<_> = (0..3)
        .map(|index| Ring::descriptor(&memory, head.address, index))
        .collect();
    assert_eq!((table[0].flags, table[0].next), (1, 1));
    assert_eq!((table[1].flags, table[1].next), (3, 2));
    assert_eq!(table[2].flags, 2);
    let chain = ring.pop(&memory).unwrap();
    assert_eq!((chain.segments.len(), chain.writable()), (3, 6));
}

#[test]
fn direct_descriptors_may_come_before_a_table() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 8, INDIRECT_DESC);
    let segments = [
        readable(1, 1),
        readable(2, 2),
        writable(3, 3),
        writable(4, 4),
    ];
    queue
        .add_as(&segments, Layout::Indirect { direct: 2 })
        .unwrap();
    assert!(queue.publish());
    assert_eq!(queue.free(), 5);
    let flags = [0, 1, 2].map(|at| Ring::descriptor(&memory, ring.descriptors, at).flags);
    assert_eq!(flags, [1, 1, 4]);
    let chain = ring.pop(&memory).unwrap();
    let addresses: Vec<_> = chain
        .segments
        .iter()
        .map(|segment| segment.address)
        .collect();
    assert_eq!(addresses, [1, 2, 3, 4]);
    ring.push(&memory, chain.head.into(), 7);
    assert_eq!(queue.pop().unwrap().unwrap().written, 7);
    assert_eq!(queue.free(), 8);
}

#[test]
fn a_chain_longer_than_a_table_goes_direct() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 64, INDIRECT_DESC);
    let segments: Vec<_> = (0..=u64::from(INDIRECT_ENTRIES))
        .map(|at| readable(at, 1))
        .collect();
    queue.add(&segments).unwrap();
    assert!(queue.publish());
    assert_eq!(queue.free(), 64 - 33);
    assert_eq!(ring.pop(&memory).unwrap().segments.len(), 33);
}

#[test]
fn illegal_chains_are_refused_and_cost_nothing() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, INDIRECT_DESC);
    let refused = [
        std::vec![],
        std::vec![readable(0, 0)],
        std::vec![writable(0, 1), readable(0, 1)],
        std::vec![readable(0, u32::MAX), readable(0, 2)],
        std::vec![readable(0, 1); 5],
    ];
    for chain in refused {
        let segments = chain.len();
        let found = queue.add(&chain).unwrap_err();
        assert!(
            matches!(found, Error::Chain { segments: n, .. } if n == segments),
            "{chain:?}"
        );
    }
    let all = Layout::Indirect { direct: 1 };
    assert!(matches!(
        queue.add_as(&[readable(0, 1)], all),
        Err(Error::Chain { .. })
    ));
    // Exactly 2^32 bytes are legal.
    queue.add(&[readable(0, u32::MAX), readable(0, 1)]).unwrap();
    assert!(queue.publish());
    assert_eq!(ring.pop(&memory).unwrap().segments.len(), 2);
    assert_eq!(ring.pop(&memory), None);
}

#[test]
fn an_indirect_layout_needs_the_feature() {
    let memory = Memory::new();
    let (mut queue, _) = queue(&memory, 4, 0);
    let layout = Layout::Indirect { direct: 0 };
    assert!(matches!(
        queue.add_as(&[readable(0, 1)], layout),
        Err(Error::Chain { .. })
    ));
}

#[test]
fn a_full_queue_says_so_and_takes_more_after_a_completion() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, 0);
    queue.add(&[readable(1, 1), writable(2, 1)]).unwrap();
    let second = queue.add(&[readable(3, 1), writable(4, 1)]).unwrap();
    assert_eq!(queue.add(&[readable(5, 1)]), Err(Error::QueueFull));
    assert!(queue.publish());
    let first = ring.pop(&memory).unwrap();
    let last = ring.pop(&memory).unwrap();
    // The device may use them in any order.
    ring.push(&memory, last.head.into(), 1);
    let used = queue.pop().unwrap().unwrap();
    assert_eq!((used.head, used.written), (second, 1));
    queue.add(&[readable(5, 1), readable(6, 1)]).unwrap();
    assert!(queue.publish());
    let third = ring.pop(&memory).unwrap();
    assert_eq!(
        third
            .segments
            .iter()
            .map(|segment| segment.address)
            .sum::<u64>(),
        11
    );
    for chain in [third, first] {
        ring.push(&memory, chain.head.into(), 0);
    }
    assert!(queue.pop().unwrap().is_some() && queue.pop().unwrap().is_some());
    assert_eq!(queue.pop(), Ok(None));
    assert_eq!((queue.free(), queue.in_flight()), (4, 0));
}

#[test]
fn the_indices_wrap_many_times_with_every_layout() {
    for features in [0, INDIRECT_DESC, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
        let memory = Memory::new();
        let (mut queue, mut ring) = queue(&memory, 8, features);
        for round in 0..70_000_u32 {
            let address = u64::from(round);
            let head = queue
                .add(&[readable(address, 1), writable(address, round + 1)])
                .unwrap();
            let _ = queue.publish();
            // Two in flight from the second round on, so that the free list gets mixed up.
            if round == 0 {
                continue;
            }
            let chain = ring.pop(&memory).unwrap();
            assert_eq!(chain.segments[0].address, address - 1);
            ring.push(&memory, chain.head.into(), round);
            let used = queue.pop().unwrap().unwrap();
            assert_eq!(used.written, round);
            assert_ne!(used.head, head);
            assert_eq!(queue.in_flight(), 1);
        }
    }
}

/// A queue with one chain of 10 writable bytes in flight, after the device's lie.
fn after(lie: impl FnOnce(&Memory, &mut Ring, u32)) -> (Error, Queue) {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, 0);
    submit(&mut queue, writable(BUS, 10));
    let chain = ring.pop(&memory).unwrap();
    lie(&memory, &mut ring, chain.head.into());
    loop {
        match queue.pop() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the lie was believed"),
            Err(error) => {
                assert_eq!(queue.pop(), Err(error.clone()), "the queue stays broken");
                assert_eq!(queue.add(&[readable(0, 1)]), Err(error.clone()));
                return (error, queue);
            }
        }
    }
}

#[test]
fn a_used_id_beyond_the_queue_breaks_it() {
    assert_eq!(
        after(|memory, ring, _| ring.push(memory, 4, 0)).0,
        Error::UsedId(4)
    );
    assert_eq!(
        after(|memory, ring, _| ring.push(memory, 0x1_0000, 0)).0,
        Error::UsedId(0x1_0000)
    );
    assert_eq!(
        after(|memory, ring, _| ring.push(memory, u32::MAX, 0)).0,
        Error::UsedId(u32::MAX)
    );
}

#[test]
fn a_used_id_that_is_not_in_flight_breaks_the_queue() {
    let (error, _) = after(|memory, ring, head| ring.push(memory, head ^ 1, 0));
    assert!(matches!(error, Error::UsedId(_)), "{error}");
}

#[test]
fn the_same_id_twice_breaks_the_queue() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, 0);
    submit(&mut queue, writable(BUS, 10));
    submit(&mut queue, writable(BUS, 10));
    let head = ring.pop(&memory).unwrap().head.into();
    ring.push(&memory, head, 0);
    ring.push(&memory, head, 0);
    assert!(queue.pop().unwrap().is_some());
    assert_eq!(queue.pop(), Err(Error::UsedId(head)));
}

#[test]
fn more_written_than_writable_breaks_the_queue() {
    let (error, _) = after(|memory, ring, head| ring.push(memory, head, 11));
    assert_eq!(error, Error::UsedLength { written: 11, writable: 10 });
}

#[test]
fn a_used_index_that_runs_ahead_breaks_the_queue() {
    for index in [2, 5, 0x8000, 0xffff] {
        let lie = |memory: &Memory, ring: &mut Ring, _| memory.set_u16(ring.device + 2, index);
        let (error, _) = after(lie);
        assert_eq!(error, Error::UsedIndex { index, next: 0, in_flight: 1 });
    }
}

#[test]
fn what_the_device_does_to_the_descriptors_does_not_confuse_the_driver() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, 0);
    queue.add(&[readable(1, 1), writable(2, 1)]).unwrap();
    assert!(queue.publish());
    let head = ring.pop(&memory).unwrap().head.into();
    memory.write(ring.descriptors, &[0xff; 64]);
    ring.push(&memory, head, 0);
    assert!(queue.pop().unwrap().is_some());
    assert_eq!(queue.free(), 4);
    queue.add(&[readable(1, 1); 4]).unwrap();
    assert!(queue.publish());
    assert_eq!(ring.pop(&memory).unwrap().segments.len(), 4);
}

#[test]
fn without_event_idx_the_used_flags_decide_on_the_kick() {
    let memory = Memory::new();
    let (mut queue, ring) = queue(&memory, 4, 0);
    assert!(!queue.publish(), "nothing new");
    queue.add(&[readable(1, 1)]).unwrap();
    assert!(queue.publish());
    assert!(!queue.publish(), "nothing new since");
    ring.set_used_flags(&memory, 1);
    queue.add(&[readable(1, 1)]).unwrap();
    assert!(!queue.publish());
    ring.set_used_flags(&memory, 0);
    queue.add(&[readable(1, 1)]).unwrap();
    assert!(queue.publish());
}

#[test]
fn with_event_idx_the_kick_comes_when_avail_event_is_passed() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 8, EVENT_IDX);
    // used.flags means nothing then.
    ring.set_used_flags(&memory, 1);
    let mut kicks = Vec::new();
    for (event, chains) in [(0, 1), (0, 1), (3, 1), (3, 1), (4, 3), (6, 1)] {
        ring.set_avail_event(&memory, event);
        for _ in 0..chains {
            queue.add(&[readable(1, 1)]).unwrap();
        }
        kicks.push(queue.publish());
        while let Some(chain) = ring.pop(&memory) {
            ring.push(&memory, chain.head.into(), 0);
            queue.pop().unwrap();
        }
    }
    // idx before → after: 0→1, 1→2, 2→3, 3→4, 4→7, 7→8.
    assert_eq!(kicks, [true, false, false, true, true, false]);
}

#[test]
fn the_event_is_passed_exactly_when_it_lies_between_the_indices() {
    for old in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        for moved in [0, 1, 2, 255, 256, 0xffff] {
            for offset in [0, 1, 2, 254, 255, 256, 0x8000, 0xfffe, 0xffff] {
                let (new, event) = (old + moved, old + offset);
                let low = |index: u32| u16::try_from(index & 0xffff).unwrap();
                let passed = offset < moved;
                assert_eq!(needs_event(low(event), low(new), low(old)), passed);
            }
        }
    }
}

#[test]
fn without_event_idx_interrupts_are_a_flag() {
    let memory = Memory::new();
    let (mut queue, ring) = queue(&memory, 4, 0);
    assert_eq!(ring.avail_flags(&memory), 0);
    assert!(!queue.set_interrupts(false));
    assert_eq!(ring.avail_flags(&memory), 1);
    assert!(!queue.set_interrupts(true));
    assert_eq!(ring.avail_flags(&memory), 0);
}

#[test]
fn with_event_idx_interrupts_are_asked_for_one_by_one() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 4, EVENT_IDX);
    assert_eq!(ring.used_event(&memory), 0);
    for completed in 1..=3 {
        submit(&mut queue, readable(1, 1));
        let head = ring.pop(&memory).unwrap().head.into();
        ring.push(&memory, head, 0);
        queue.pop().unwrap().unwrap();
        assert_eq!(ring.used_event(&memory), completed);
    }
    queue.set_interrupts(false);
    assert_eq!(
        ring.used_event(&memory),
        3 + 0x8000,
        "an entry far from all in flight"
    );
    assert_eq!(ring.avail_flags(&memory), 0, "must stay 0 (§2.7.7.1)");
    queue.set_interrupts(true);
    assert_eq!(ring.used_event(&memory), 3);
}

#[test]
fn asking_for_interrupts_tells_of_what_was_used_before() {
    for features in [0, EVENT_IDX] {
        let memory = Memory::new();
        let (mut queue, mut ring) = queue(&memory, 4, features);
        submit(&mut queue, readable(1, 1));
        assert!(!queue.set_interrupts(true));
        let head = ring.pop(&memory).unwrap().head.into();
        ring.push(&memory, head, 0);
        assert!(queue.set_interrupts(true));
        queue.pop().unwrap().unwrap();
        assert!(!queue.set_interrupts(true));
    }
}

#[test]
fn chains_of_any_length_finished_in_any_order_never_share_a_descriptor() {
    let memory = Memory::new();
    let (mut queue, mut ring) = queue(&memory, 16, 0);
    // Knuth's MMIX generator: the same "random" run every time.
    let mut seed = 1_u64;
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut in_flight = Vec::new();
    for round in 0..20_000_u64 {
        let length = 1 + random(5);
        let chain: Vec<_> = (0..length)
            .map(|part| readable(round * 8 + part, 1))
            .collect();
        if queue.add(&chain).is_ok() {
            let _ = queue.publish();
            in_flight.push((ring.pop(&memory).unwrap(), chain));
        } else {
            assert!(u64::from(queue.free()) < length);
            let (chain, _) = in_flight.swap_remove(random(in_flight.len() as u64) as usize);
            ring.push(&memory, chain.head.into(), 0);
            queue.pop().unwrap().unwrap();
        }
        // What is in flight still reads as it was written, so no later chain overwrote it.
        for (chain, given) in &in_flight {
            let mut at = chain.head;
            for segment in given {
                let descriptor = Ring::descriptor(&memory, ring.descriptors, at);
                assert_eq!(descriptor.address, segment.address, "round {round}");
                at = descriptor.next;
            }
        }
        let used: usize = in_flight.iter().map(|(_, given)| given.len()).sum();
        assert_eq!(usize::from(queue.free()), 16 - used);
    }
}
