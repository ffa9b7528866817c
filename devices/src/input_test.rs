use super::*;
use crate::rig::{DATA, Rig, WRITE};

/// An event as the driver sees it: type, code, value.
fn event(rig: &Rig, address: u64) -> (u16, u16, u32) {
    (rig.u16(address), rig.u16(address + 2), rig.u32(address + 4))
}

/// The device with `rig`'s queue as its event queue.
fn started(rig: &Rig) -> (Input, Arc<PowerKey>, Queues) {
    let input = Input::new().unwrap();
    let key = input.key();
    (input, key, Queues::new(vec![Some(rig.queue(0)), None]))
}

/// A rig with one available buffer of each of these sizes, 16 bytes apart.
fn with_buffers(sizes: &[u32]) -> Rig {
    let rig = Rig::new(8);
    for (index, size) in (0..).zip(sizes) {
        rig.chain(index, &[(DATA + 16 * u64::from(index), *size, WRITE)]);
        rig.offer(index);
    }
    rig
}

#[test]
fn a_press_is_a_key_down_and_up_each_with_a_report() {
    let rig = with_buffers(&[8; 6]);
    let (mut input, key, mut queues) = started(&rig);
    input.process_queue(EVENTS, &mut queues).unwrap();
    assert_eq!(rig.used_idx(), 0, "nothing happens by itself");
    assert!(key.press());
    input.handle_event(0, &mut queues).unwrap();
    assert_eq!(rig.used_idx(), 4);
    let events: Vec<_> = (0..4).map(|index| event(&rig, DATA + 16 * index)).collect();
    assert_eq!(events, [(1, 116, 1), (0, 0, 0), (1, 116, 0), (0, 0, 0)]);
    assert_eq!((rig.used(0), rig.used(3)), ((0, 8), (3, 8)));
    // The eventfd is never read, so the event may be reported again.
    input.handle_event(0, &mut queues).unwrap();
    assert_eq!(rig.used_idx(), 4);
}

#[test]
fn without_a_driver_that_waits_the_key_cannot_be_pressed() {
    let rig = Rig::new(8);
    let (mut input, key, mut queues) = started(&rig);
    assert!(!key.press(), "no driver");
    input.process_queue(EVENTS, &mut queues).unwrap();
    assert!(!key.press(), "no buffer");
    rig.chain(0, &[(DATA, 8, WRITE)]);
    rig.offer(0);
    input.process_queue(EVENTS, &mut queues).unwrap();
    assert!(key.press());
    input.reset();
    assert!(!key.press(), "the driver is gone");
}

#[test]
fn a_press_does_not_outlive_its_driver() {
    for forget in [
        |input: &mut Input| input.reset(),
        |input: &mut Input| input.queue_reset(EVENTS),
    ] {
        // One buffer: three events stay pending.
        let rig = with_buffers(&[8]);
        let (mut input, key, mut queues) = started(&rig);
        input.process_queue(EVENTS, &mut queues).unwrap();
        assert!(key.press());
        input.handle_event(0, &mut queues).unwrap();
        assert_eq!(rig.used_idx(), 1);
        assert!(key.press());
        forget(&mut input);
        let rig = with_buffers(&[8; 4]);
        let mut queues = Queues::new(vec![Some(rig.queue(0)), None]);
        input.handle_event(0, &mut queues).unwrap();
        assert_eq!(rig.used_idx(), 0);
    }
}

#[test]
fn events_wait_for_buffers_and_presses_do_not_pile_up() {
    let rig = with_buffers(&[8]);
    let (mut input, key, mut queues) = started(&rig);
    input.process_queue(EVENTS, &mut queues).unwrap();
    for _ in 0..100 {
        assert!(key.press());
        input.handle_event(0, &mut queues).unwrap();
    }
    assert_eq!((rig.used_idx(), input.pending.len()), (1, 3));
    for index in 1..6 {
        rig.chain(index, &[(DATA + 16 * u64::from(index), 8, WRITE)]);
        rig.offer(index);
    }
    input.process_queue(EVENTS, &mut queues).unwrap();
    assert_eq!(rig.used_idx(), 4);
    assert_eq!(event(&rig, DATA + 32), (1, 116, 0));
}

#[test]
fn buffers_too_short_for_an_event_go_back_empty() {
    // None, readable only, seven bytes, and eight in two pieces.
    let rig = with_buffers(&[0, 8, 7, 8]);
    rig.chain(1, &[(DATA + 16, 8, 0)]);
    rig.chain(3, &[(DATA + 48, 3, WRITE), (DATA + 64, 5, WRITE)]);
    let (mut input, key, mut queues) = started(&rig);
    input.process_queue(EVENTS, &mut queues).unwrap();
    assert!(key.press());
    input.handle_event(0, &mut queues).unwrap();
    assert_eq!(rig.used_idx(), 4);
    for index in 0..3 {
        assert_eq!(rig.used(index), (index.into(), 0));
    }
    assert_eq!(rig.used(3), (3, 8));
    assert_eq!(rig.read(DATA, 48), [0; 48]);
    assert_eq!(rig.read(DATA + 48, 3), [1, 0, 116]);
    assert_eq!(input.pending.len(), 3);
}

#[test]
fn status_events_are_returned_unread() {
    let rig = Rig::new(8);
    rig.chain(0, &[(DATA, 8, 0)]);
    rig.offer(0);
    let (mut input, key, _) = started(&rig);
    let mut queues = Queues::new(vec![None, Some(rig.queue(0))]);
    input.process_queue(1, &mut queues).unwrap();
    assert_eq!((rig.used_idx(), rig.used(0)), (1, (0, 0)));
    assert!(!key.press(), "its buffers are not for events");
    for queue in [0, 2, usize::MAX] {
        input.process_queue(queue, &mut queues).unwrap();
    }
    input.handle_event(0, &mut queues).unwrap();
}

#[test]
fn a_driver_reads_what_it_selects() {
    let input = Input::new().unwrap();
    let config = input.config();
    let selected = |select, subsel| {
        config.write(0, &[select, subsel]);
        let mut bytes = [0xff; 8 + 128];
        config.read(0, &mut bytes);
        assert_eq!(bytes[..2], [select, subsel]);
        assert_eq!(bytes[3..8], [0; 5]);
        let (value, rest) = bytes[8..].split_at(bytes[2].into());
        assert!(rest.iter().all(|byte| *byte == 0));
        value.to_vec()
    };
    assert_eq!(selected(0x01, 0), b"Power Button");
    assert_eq!(selected(0x02, 0), b"power");
    assert_eq!(selected(0x03, 0), [6, 0, 0, 0, 0, 0, 0, 0]);
    let keys = selected(0x11, 1);
    let set = (0..u16::try_from(8 * keys.len()).unwrap())
        .filter(|code| keys[usize::from(code / 8)] & 1 << (code % 8) != 0);
    assert_eq!(set.collect::<Vec<_>>(), [116]);
    for select in 0..=255 {
        for subsel in 0..=255 {
            let known = matches!((select, subsel), (0x01..=0x03, 0) | (0x11, 1));
            assert_eq!(selected(select, subsel).is_empty(), !known);
        }
    }
}

#[test]
fn only_the_selection_can_be_written_in_any_way() {
    let mut input = Input::new().unwrap();
    let config = input.config();
    config.write(0, &[0xff; 200]);
    config.write(2, &[1; 134]);
    config.write(usize::MAX, &[1; 8]);
    config.write(135, &[]);
    let mut bytes = [0; 8];
    config.read(0, &mut bytes);
    assert_eq!(bytes, [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    config.write(1, &[0]);
    config.write(0, &[1]);
    config.read(0, &mut bytes);
    assert_eq!(bytes, [1, 0, 12, 0, 0, 0, 0, 0]);
    config.read(usize::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    input.reset();
    config.read(0, &mut bytes);
    assert_eq!(bytes, [0; 8]);
}
