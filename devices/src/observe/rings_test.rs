use super::*;
use crate::rig::{self, DATA, Rig, WRITE};
use crate::virtio::queue::FEATURES;

#[test]
fn a_snapshot_shows_the_rings_and_the_chains_in_flight() {
    let rig = Rig::new(8);
    let mut queue = rig.queue(FEATURES);
    rig.chain(2, &[(DATA, 16, 0), (DATA + 0x1000, 512, WRITE)]);
    rig.chain(5, &[(DATA + 0x2000, 4, 0)]);
    rig.offer(2);
    rig.offer(5);
    rig.set_used_event(7);
    let view = queue.view();
    let chain = queue.pop().unwrap().unwrap();
    queue.push(chain, 512);
    queue.notify();
    queue.allow_kicks();
    let snapshot = view.snapshot();
    assert_eq!((snapshot.available_idx, snapshot.used_idx), (2, 1));
    assert_eq!(snapshot.available[..2], [2, 5]);
    assert_eq!(snapshot.used[0], (2, 512));
    assert_eq!(snapshot.heads_in_flight().collect::<Vec<_>>(), [5]);
    assert_eq!(
        (snapshot.used_event, snapshot.avail_event),
        (Some(7), Some(1))
    );
    let second = snapshot.descriptors[3];
    assert_eq!(
        (second.address, second.len, second.flags),
        (DATA + 0x1000, 512, WRITE)
    );
}

#[test]
fn indirect_tables_are_followed_and_loops_in_them_are_cut() {
    let rig = Rig::new(4);
    let queue = rig.queue(FEATURES);
    let table = DATA + 0x3000;
    rig.descriptor(1, (table, 32), rig::INDIRECT, 0);
    rig.descriptor_at(table, 0, (DATA, 16), rig::NEXT, 1);
    rig.descriptor_at(table, 1, (DATA, 16), rig::NEXT, 0);
    rig.offer(1);
    let snapshot = queue.view().snapshot();
    let [(1, found)] = &snapshot.tables[..] else {
        panic!("{snapshot:?}");
    };
    assert_eq!(found.len(), usize::from(TABLE_MAX));
}

#[test]
fn an_invalid_index_shows_no_more_chains_than_the_ring_holds() {
    let rig = Rig::new(4);
    let queue = rig.queue(0);
    rig.set_available(1000);
    let snapshot = queue.view().snapshot();
    assert_eq!(snapshot.heads_in_flight().count(), 4);
    assert_eq!((snapshot.used_event, snapshot.avail_event), (None, None));
}
