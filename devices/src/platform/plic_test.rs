use super::*;
use crate::rig::Wire;

/// A PLIC for `harts` harts, and their wires.
fn plic(harts: usize) -> (Arc<Plic>, Vec<Wire>) {
    let wires = vec![Wire::default(); harts]
        .iter()
        .map(|_| Wire::default())
        .collect::<Vec<_>>();
    let lines = wires
        .iter()
        .map(|wire| Box::new(wire.clone()) as Box<dyn IrqLine>);
    (Arc::new(Plic::new(lines.collect())), wires)
}

fn read(plic: &Plic, offset: u64) -> u32 {
    let mut data = [0; 4];
    plic.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(plic: &Plic, offset: u64, value: u32) {
    plic.write(offset, &value.to_le_bytes());
}

const fn threshold(context: u64) -> u64 {
    0x20_0000 + 0x1000 * context
}

const fn claim(context: u64) -> u64 {
    threshold(context) + 4
}

const fn enable(context: u64, word: u64) -> u64 {
    0x2000 + 0x80 * context + 4 * word
}

fn priority(plic: &Plic, source: u32, value: u32) {
    write(plic, 4 * u64::from(source), value);
}

/// Hart 0's S context.
const S0: u64 = 1;
const S1: u64 = 3;

#[test]
fn a_level_is_claimed_once_and_comes_back_after_completion_while_it_stays_high() {
    let (plic, wires) = plic(1);
    let source = plic.source(5);
    priority(&plic, 5, 1);
    write(&plic, enable(S0, 0), 1 << 5);
    source.set(true);
    assert!(wires[0].is_high());
    assert_eq!(read(&plic, PENDING), 1 << 5);
    assert_eq!(read(&plic, claim(S0)), 5);
    // The gateway is closed: whatever the wire does, there is no second request.
    assert!(!wires[0].is_high());
    source.set(false);
    source.set(true);
    assert_eq!(read(&plic, claim(S0)), 0);
    write(&plic, claim(S0), 5);
    assert!(wires[0].is_high());
    assert_eq!(read(&plic, claim(S0)), 5);
    source.set(false);
    write(&plic, claim(S0), 5);
    assert!(!wires[0].is_high());
}

#[test]
fn a_request_outlives_the_fall_of_its_wire() {
    let (plic, wires) = plic(1);
    let source = plic.source(5);
    priority(&plic, 5, 1);
    write(&plic, enable(S0, 0), 1 << 5);
    source.set(true);
    source.set(false);
    assert!(wires[0].is_high());
    assert_eq!(read(&plic, claim(S0)), 5);
    write(&plic, claim(S0), 5);
    assert!(!wires[0].is_high());
}

#[test]
fn priority_zero_never_fires() {
    let (plic, wires) = plic(1);
    write(&plic, enable(S0, 0), 1 << 5);
    plic.source(5).set(true);
    assert!(!wires[0].is_high());
    assert_eq!(read(&plic, PENDING), 1 << 5);
    assert_eq!(read(&plic, claim(S0)), 0);
    priority(&plic, 5, 8); // only three bits are there
    assert_eq!(read(&plic, 4 * 5), 0);
    assert!(!wires[0].is_high());
}

#[test]
fn only_priorities_above_the_threshold_interrupt_but_a_claim_ignores_it() {
    let (plic, wires) = plic(1);
    priority(&plic, 5, 3);
    write(&plic, enable(S0, 0), 1 << 5);
    write(&plic, threshold(S0), 3);
    plic.source(5).set(true);
    assert!(!wires[0].is_high());
    write(&plic, threshold(S0), 2);
    assert!(wires[0].is_high());
    write(&plic, threshold(S0), 7);
    assert!(!wires[0].is_high());
    assert_eq!(read(&plic, claim(S0)), 5);
}

#[test]
fn the_highest_priority_wins_and_the_lowest_number_among_equals() {
    let (plic, _) = plic(1);
    for (source, value) in [(9, 2), (40, 7), (64, 2), (95, 7)] {
        priority(&plic, source, value);
        plic.source(source).set(true);
    }
    for word in 0..3 {
        write(&plic, enable(S0, word), u32::MAX);
    }
    let order: Vec<_> = (0..5).map(|_| read(&plic, claim(S0))).collect();
    assert_eq!(order, [40, 95, 9, 64, 0]);
}

#[test]
fn every_enabled_hart_is_interrupted_and_one_claims() {
    let (plic, wires) = plic(2);
    priority(&plic, 7, 1);
    write(&plic, enable(S0, 0), 1 << 7);
    write(&plic, enable(S1, 0), 1 << 7);
    plic.source(7).set(true);
    assert!(wires[0].is_high() && wires[1].is_high());
    assert_eq!(read(&plic, claim(S1)), 7);
    assert!(!wires[0].is_high() && !wires[1].is_high());
    assert_eq!(read(&plic, claim(S0)), 0);
}

#[test]
fn a_completion_by_a_context_without_the_source_enabled_is_ignored() {
    let (plic, wires) = plic(2);
    priority(&plic, 7, 1);
    write(&plic, enable(S0, 0), 1 << 7);
    plic.source(7).set(true);
    assert_eq!(read(&plic, claim(S0)), 7);
    write(&plic, claim(S1), 7);
    write(&plic, claim(S0), 8);
    write(&plic, claim(S0), u32::MAX);
    assert!(!wires[0].is_high());
    write(&plic, claim(S0), 7);
    assert!(wires[0].is_high());
}

#[test]
fn machine_contexts_exist_and_are_not_connected() {
    let (plic, wires) = plic(1);
    priority(&plic, 7, 1);
    write(&plic, enable(0, 0), 1 << 7);
    assert_eq!(read(&plic, enable(0, 0)), 1 << 7);
    plic.source(7).set(true);
    assert!(!wires[0].is_high());
}

#[test]
fn source_zero_and_sources_past_the_last_do_not_exist() {
    let (plic, wires) = plic(1);
    for source in [0, SOURCES + 1, 1024, u32::MAX] {
        plic.source(source).set(true);
    }
    priority(&plic, 0, 7);
    for word in 0..32 {
        write(&plic, enable(S0, word), u32::MAX);
    }
    assert_eq!(read(&plic, 0), 0);
    assert_eq!(read(&plic, enable(S0, 0)), u32::MAX - 1);
    assert_eq!(read(&plic, enable(S0, 3)), 0);
    assert!(!wires[0].is_high());
    assert_eq!(read(&plic, claim(S0)), 0);
}

#[test]
fn odd_accesses_and_absent_registers_do_nothing() {
    let (plic, _) = plic(1);
    priority(&plic, 5, 3);
    for width in [1, 2, 3, 8] {
        let mut data = vec![0; width];
        plic.read(4 * 5, &mut data);
        assert_eq!(data, vec![0; width]);
        plic.write(4 * 5, &vec![0xff; width]);
    }
    let mut data = [0; 4];
    plic.read(4 * 5 + 2, &mut data);
    assert_eq!(data, [0; 4]);
    assert_eq!(read(&plic, 4 * 5), 3);
    for offset in (0..SIZE)
        .step_by(0x7fc)
        .chain([threshold(2), claim(2), SIZE - 4])
    {
        read(&plic, offset & !3);
        write(&plic, offset & !3, u32::MAX);
    }
}
