use devices::observe::rings::{Descriptor as Raw, Snapshot};

use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn raw(address: u64, len: u32, flags: u16, next: u16) -> Raw {
    Raw { address, len, flags, next }
}

/// A queue of four descriptors: one chain is used, one of two descriptors is in flight, and one
/// with an indirect table is in flight.
fn held() -> Snapshot {
    Snapshot {
        descriptors: vec![
            raw(0x8000_0000, 16, NEXT, 1),
            raw(0x8000_1000, 512, WRITE, 0),
            raw(0x8000_2000, 32, INDIRECT, 0),
            raw(0x8000_3000, 8, 0, 0),
        ],
        tables: vec![(
            2,
            vec![raw(0x8000_4000, 7, NEXT, 1), raw(0x8000_5000, 9, WRITE, 0)],
        )],
        available_flags: 0,
        available_idx: 3,
        available: vec![3, 0, 2, 0],
        used_event: Some(1),
        used_flags: 0,
        used_idx: 1,
        used: vec![(3, 77), (0, 0), (0, 0), (0, 0)],
        avail_event: Some(3),
    }
}

#[test]
fn the_text_shows_the_chains_and_their_owners() {
    let text = text::draw(&Queue::new("disk0", 0, Moment::Now, &held()));
    for part in [
        "disk0 queue 0, when the file was written: 4 descriptors, 2 chains in flight",
        "idx 3, flags 0, used_event 1",
        "slot   1: head   0, the device's",
        "slot   2: head   2, the device's",
        "slot   0: head   3, 77 bytes written, the driver's again",
        "[0] 0x80000000 16 bytes, device reads → [1] 0x80001000 512 bytes, device writes",
        "[2] 0x80002000 32 bytes, table",
        "its table: [0] 0x80004000 7 bytes, device reads → [1] 0x80005000 9 bytes, device writes",
        "1 of 4 descriptors are the driver's",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_chain_that_loops_is_cut_where_it_closes() {
    let mut held = held();
    held.descriptors[1] = raw(0, 0, NEXT, 0);
    let queue = Queue::new("disk0", 0, Moment::Now, &held);
    assert_eq!(queue.chain(0).len(), 4);
    assert!(text::draw(&queue).contains("1 of 4 descriptors"));
}

#[test]
fn a_head_outside_the_table_draws_no_chain() {
    let mut held = held();
    held.available[1] = 400;
    let queue = Queue::new("disk0", 0, Moment::Now, &held);
    assert!(queue.chain(400).is_empty());
    assert!(text::draw(&queue).contains("head 400"));
}

#[test]
fn the_drawing_is_well_formed_and_marks_entries_of_the_device() {
    let mut queue = Queue::new("disk0", 0, Moment::BusiestKick, &held());
    queue.device = "<&".into();
    let drawing = svg::draw(&[&queue, &queue]);
    assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
    // Two ring slots, three descriptors; the table has two entries. Twice, and the legend.
    assert_eq!(drawing.matches("class=\"device\"").count(), 2 * 5 + 1);
    assert_eq!(drawing.matches("class=\"table\"").count(), 2 * 2 + 1);
    // A free slot shows no head. The fixture has one.
    assert!(drawing.contains(">  3:<"), "{drawing}");
    assert_eq!(
        drawing.matches("<text").count(),
        drawing.matches("</text>").count()
    );
    assert!(drawing.contains("&lt;&amp; queue 0"));
}

#[test]
fn the_file_reads_back_unchanged() {
    let queue = Queue::new("disk0", 3, Moment::BusiestKick, &held());
    let text = serde_json::to_string(&[&queue]).unwrap();
    assert!(text.contains("busiest-kick"), "{text}");
    let back: Vec<Queue> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, [queue]);
}
