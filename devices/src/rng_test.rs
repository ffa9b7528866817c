use super::*;
use crate::rig::{DATA, Rig, WRITE};

fn served(buffers: &[(u64, u32, u16)]) -> Rig {
    let rig = Rig::new(8);
    rig.chain(0, buffers);
    rig.offer(0);
    let mut queues = Queues::new(vec![Some(rig.queue(0))]);
    Rng::default().process_queue(0, &mut queues).unwrap();
    rig
}

#[test]
fn a_buffer_is_filled_with_bytes_that_differ() {
    let rig = served(&[(DATA, 32, WRITE), (DATA + 100, 32, WRITE)]);
    assert_eq!(rig.used(0), (0, 64));
    let (first, second) = (rig.read(DATA, 32), rig.read(DATA + 100, 32));
    assert!(first != second && first != [0; 32] && second != [0; 32]);
    assert_eq!(rig.read(DATA + 32, 68), [0; 68], "nothing in between");
}

#[test]
fn a_huge_buffer_is_filled_up_to_the_limit_that_the_used_length_reports() {
    let rig = served(&[(DATA, 65536, WRITE)]);
    let given = u32::try_from(REQUEST_MAX).unwrap();
    assert_eq!(rig.used(0), (0, given));
    assert_eq!(rig.read(DATA + u64::from(given), 100), [0; 100]);
}

#[test]
fn a_request_without_room_goes_back_empty() {
    let rig = served(&[(DATA, 16, 0)]);
    assert_eq!(rig.used(0), (0, 0));
}
