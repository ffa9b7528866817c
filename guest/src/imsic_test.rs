use super::Imsic;
use crate::model::File;

#[test]
fn starting_turns_every_identity_off_and_delivery_on() {
    let file = File::default();
    for select in [0xc0, 0xc2, 0xc4, 0xc6, 0x72] {
        file.set(select, u64::MAX);
    }
    Imsic::new(&file, 255).start();
    assert_eq!(
        [0xc0, 0xc2, 0xc4, 0xc6, 0x72].map(|select| file.get(select)),
        [0; 5]
    );
    assert_eq!(file.get(0x70), 1);
    assert!(
        file.odd_registers().is_empty(),
        "only even ones exist with 64-bit CSRs"
    );
}

#[test]
fn identities_are_bits_of_the_even_registers() {
    let file = File::default();
    let imsic = Imsic::new(&file, 2047);
    for identity in [1, 63, 64, 2047] {
        imsic.enable(identity);
    }
    assert_eq!(file.get(0xc0), 1 << 63 | 2);
    assert_eq!(file.get(0xc2), 1);
    assert_eq!(file.get(0xfe), 1 << 63);
    imsic.disable(1);
    assert_eq!(file.get(0xc0), 1 << 63);
}

#[test]
fn claiming_takes_the_identity_from_stopei() {
    let file = File::default();
    let imsic = Imsic::new(&file, 255);
    assert_eq!(imsic.claim(), None);
    file.set_top(2047 << 16 | 2047);
    assert_eq!(imsic.claim(), Some(2047));
    assert_eq!(imsic.claim(), None, "the claim took it away");
}

#[test]
fn pending_is_a_bit_of_eip() {
    let file = File::default();
    file.set(0x82, 1 << 6);
    let imsic = Imsic::new(&file, 255);
    assert_eq!(
        [69, 70, 71].map(|identity| imsic.pending(identity)),
        [false, true, false]
    );
}

#[test]
fn there_are_never_more_identities_than_the_specification_allows() {
    assert_eq!(Imsic::new(&File::default(), u32::MAX).identities(), 2047);
}
