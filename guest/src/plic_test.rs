use super::{LEN, MAX_CONTEXTS, MAX_SOURCES, Plic};
use crate::intc::{Intc, Trigger};
use crate::model::Ram;

#[test]
fn enabling_touches_priority_and_the_bit_of_this_context() {
    let registers = Ram::new(LEN);
    let plic = Plic::new(&registers, 3, 95);
    plic.enable(1, Trigger::LevelHigh);
    plic.enable(33, Trigger::LevelHigh);
    plic.enable(63, Trigger::LevelHigh);
    let context = 0x2000 + 3 * 0x80;
    let expected = [
        (4, 1),
        (context, 2),
        (4 * 33, 1),
        (context + 4, 2),
        (4 * 63, 1),
        (context + 4, 0x8000_0002),
    ];
    assert_eq!(registers.written(), expected);
}

#[test]
fn disabling_leaves_the_other_sources_on() {
    let registers = Ram::new(LEN);
    registers.set(0x2080, 0b1111_0000);
    Plic::new(&registers, 1, 31).disable(5);
    assert_eq!(registers.written(), [(0x2080, 0b1101_0000)]);
}

#[test]
fn sources_that_do_not_exist_are_left_alone() {
    let registers = Ram::new(LEN);
    let plic = Plic::new(&registers, 0, 31);
    for source in [32, 1023, 1024, u32::MAX] {
        plic.enable(source, Trigger::LevelHigh);
        plic.disable(source);
        assert!(!plic.pending(source));
    }
    plic.disable(0);
    assert_eq!(registers.written(), []);
}

#[test]
fn starting_turns_every_source_off_and_lets_every_priority_through() {
    let registers = Ram::new(LEN);
    Plic::new(&registers, 1, 40).start();
    let mut expected: std::vec::Vec<_> = (1..=40).map(|source| (4 * source, 0)).collect();
    expected.extend([(0x2080, 0), (0x2084, 0), (0x20_1000, 0)]);
    assert_eq!(registers.written(), expected);
}

#[test]
fn a_hart_that_joins_leaves_the_priorities_of_all() {
    let registers = Ram::new(LEN);
    Plic::new(&registers, 3, 40).join();
    assert_eq!(
        registers.written(),
        [(0x2180, 0), (0x2184, 0), (0x20_3000, 0)]
    );
}

#[test]
fn claim_and_complete_are_one_register_of_the_context() {
    let registers = Ram::new(LEN);
    let plic = Plic::new(&registers, 7, 95);
    assert_eq!(plic.claim(), None);
    registers.set(0x20_7004, 42);
    assert_eq!(plic.claim(), Some(42));
    plic.complete(42);
    assert_eq!(registers.written(), [(0x20_7004, 42)]);
}

#[test]
fn pending_is_one_bit_of_its_word() {
    let registers = Ram::new(LEN);
    registers.set(0x1004, 1 << 8);
    let plic = Plic::new(&registers, 1, 95);
    assert_eq!(
        [39, 40, 41].map(|source| plic.pending(source)),
        [false, true, false]
    );
}

#[test]
fn the_last_context_and_source_are_inside_the_registers() {
    let registers = Ram::new(LEN);
    let plic = Plic::new(&registers, u32::MAX, u32::MAX);
    plic.start();
    plic.enable(MAX_SOURCES - 1, Trigger::LevelHigh);
    assert!(registers.written().iter().all(|(offset, _)| *offset < LEN));
    assert_eq!(plic.claim(), None);
    assert_eq!(0x20_0000 + 0x1000 * MAX_CONTEXTS as usize, LEN);
}
