use super::{AplicDirect, AplicMsi, LEN};
use crate::imsic::Imsic;
use crate::intc::{Intc, Trigger};
use crate::model::{File, Ram};

#[test]
fn a_direct_source_gets_mode_target_and_enable() {
    let registers = Ram::new(LEN);
    let aplic = AplicDirect::new(&registers, 2, 96);
    aplic.enable(1, Trigger::LevelHigh);
    aplic.enable(8, Trigger::EdgeRising);
    let target = 2 << 18 | 1;
    let expected = [
        (0x0004, 6),
        (0x3004, target),
        (0x1edc, 1),
        (0x0020, 4),
        (0x3020, target),
        (0x1edc, 8),
    ];
    assert_eq!(registers.written(), expected);
}

#[test]
fn a_direct_domain_delivers_through_the_harts_idc() {
    let registers = Ram::new(LEN);
    let aplic = AplicDirect::new(&registers, 3, 33);
    aplic.start();
    let expected = [
        (0x0000, 0),
        (0x1f00, u32::MAX),
        (0x1f04, u32::MAX),
        (0x0000, 0x100),
        (0x4068, 0),
        (0x4060, 1),
    ];
    assert_eq!(registers.written(), expected);
    assert_eq!(aplic.claim(), None);
    registers.set(0x407c, 8 << 16 | 1);
    assert_eq!(aplic.claim(), Some(8));
    registers.forget();
    aplic.complete(8);
    assert_eq!(registers.written(), [], "the claim was all");
}

#[test]
fn an_msi_source_targets_the_hart_with_its_own_number() {
    let registers = Ram::new(LEN);
    let file = File::default();
    let aplic = AplicMsi::new(&registers, 1, 96, Imsic::new(&file, 255));
    aplic.start();
    assert_eq!(registers.written().last(), Some(&(0x0000, 0x104)));
    registers.forget();
    aplic.enable(70, Trigger::LevelHigh);
    assert_eq!(
        registers.written(),
        [(0x0118, 6), (0x3118, 1 << 18 | 70), (0x1edc, 70)]
    );
    assert_eq!(file.get(0xc2), 1 << 6);
    aplic.disable(70);
    assert_eq!(file.get(0xc2), 0);
    assert_eq!(registers.written().last(), Some(&(0x1fdc, 70)));
}

#[test]
fn a_level_that_is_still_high_is_asked_about_after_its_msi() {
    let registers = Ram::new(LEN);
    let file = File::default();
    let aplic = AplicMsi::new(&registers, 0, 96, Imsic::new(&file, 255));
    file.set_top(70 << 16 | 70);
    assert_eq!(aplic.claim(), Some(70));
    assert_eq!(aplic.claim(), None);
    aplic.enable(70, Trigger::LevelHigh);
    registers.forget();
    aplic.complete(70);
    assert_eq!(registers.written(), [(0x2000, 70)]);
}

#[test]
fn an_edge_is_not_asked_about_since_asking_would_make_it_pending() {
    let registers = Ram::new(LEN);
    let file = File::default();
    let aplic = AplicMsi::new(&registers, 0, 96, Imsic::new(&file, 255));
    aplic.enable(70, Trigger::EdgeRising);
    registers.forget();
    aplic.complete(70);
    assert_eq!(registers.written(), []);
}

#[test]
fn pending_is_a_bit_of_the_domain_or_of_the_file() {
    let registers = Ram::new(LEN);
    let file = File::default();
    let aplic = AplicMsi::new(&registers, 0, 96, Imsic::new(&file, 255));
    assert!(!aplic.pending(70));
    file.set(0x82, 1 << 6);
    assert!(aplic.pending(70));
    file.set(0x82, 0);
    registers.set(0x1c08, 1 << 6);
    assert!(aplic.pending(70));
    assert!(!aplic.pending(71));
}

#[test]
fn sources_that_do_not_exist_are_left_alone() {
    let registers = Ram::new(LEN);
    let aplic = AplicDirect::new(&registers, 0, 31);
    for source in [0, 32, u32::MAX] {
        aplic.enable(source, Trigger::LevelHigh);
        aplic.disable(source);
        assert!(!aplic.pending(source));
    }
    // clrienum ignores 0, as there is no such source (AIA §4.5.12).
    assert_eq!(registers.written(), [(0x1fdc, 0)]);
    registers.forget();
    let file = File::default();
    let aplic = AplicMsi::new(&registers, 0, 96, Imsic::new(&file, 63));
    // The IMSIC has fewer identities than the APLIC has sources.
    aplic.enable(64, Trigger::LevelHigh);
    aplic.disable(64);
    assert!(!aplic.pending(64));
    assert_eq!(registers.written(), []);
    assert_eq!(file.get(0xc2), 0);
}
