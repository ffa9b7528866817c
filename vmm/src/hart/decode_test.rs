use proptest::prelude::*;

use super::*;
use crate::hart::model::Model;

/// Checks the decoded instruction, and its address with x5 = x10 = 0x1000, x2 = 0x2000, x11 =
/// 0x100, x8 = 0x3000 and vstart = 3.
#[track_caller]
fn check(word: u32, what: Use, size: u64, data: Data, address: u64) {
    let hart = Model::new(&[
        (Register::X(5), 0x1000),
        (Register::X(10), 0x1000),
        (Register::X(2), 0x2000),
        (Register::X(11), 0x100),
        (Register::X(8), 0x3000),
        (Register::Vstart, 3),
    ]);
    let found = Instruction::decode(word).unwrap();
    assert_eq!((found.what, found.size, found.data), (what, size, data));
    assert_eq!(found.address(&hart).unwrap(), Some(address));
    assert_eq!(found.length, if word & 3 == 3 { 4 } else { 2 });
}

// The words are GNU as's output for the instruction in the comment.
#[test]
fn loads_and_stores_of_integers() {
    check(0xfff5_0583, Use::Load, 1, Data::Signed(11), 0xfff); // lb a1, -1(a0)
    check(0x0015_5583, Use::Load, 2, Data::Unsigned(11), 0x1001); // lhu a1, 1(a0)
    check(0x0005_2003, Use::Load, 4, Data::Signed(0), 0x1000); // lw zero, 0(a0)
    check(0x7ff5_6583, Use::Load, 4, Data::Unsigned(11), 0x17ff); // lwu a1, 2047(a0)
    check(0x8005_3583, Use::Load, 8, Data::Signed(11), 0x800); // ld a1, -2048(a0)
    check(0xfeb5_0fa3, Use::Store, 1, Data::Unsigned(11), 0xfff); // sb a1, -1(a0)
    check(0x7eb5_3fa3, Use::Store, 8, Data::Unsigned(11), 0x17ff); // sd a1, 2047(a0)
}

#[test]
fn loads_and_stores_of_floating_point() {
    check(0x0005_2507, Use::Load, 4, Data::Float(10), 0x1000); // flw fa0, 0(a0)
    check(0xff85_3507, Use::Load, 8, Data::Float(10), 0xff8); // fld fa0, -8(a0)
    check(0x00a5_1127, Use::Store, 2, Data::Float(10), 0x1002); // fsh fa0, 2(a0)
    check(0x00a2_b027, Use::Store, 8, Data::Float(10), 0x1000); // fsd fa0, 0(t0)
    check(0x0005_4507, Use::Load, 16, Data::Other, 0x1000); // flq fa0, 0(a0)
}

#[test]
fn compressed_ones() {
    check(0x2108, Use::Load, 8, Data::Float(10), 0x1000); // c.fld fa0, 0(a0)
    check(0xa508, Use::Store, 8, Data::Float(10), 0x1008); // c.fsd fa0, 8(a0)
    check(0x5d7c, Use::Load, 4, Data::Signed(15), 0x107c); // c.lw a5, 124(a0)
    check(0x7d7c, Use::Load, 8, Data::Signed(15), 0x10f8); // c.ld a5, 248(a0)
    check(0xc14c, Use::Store, 4, Data::Unsigned(11), 0x1004); // c.sw a1, 4(a0)
    check(0xe10c, Use::Store, 8, Data::Unsigned(11), 0x1000); // c.sd a1, 0(a0)
    check(0x810c, Use::Load, 1, Data::Unsigned(11), 0x1000); // c.lbu a1, 0(a0)
    check(0x816c, Use::Load, 1, Data::Unsigned(11), 0x1003); // c.lbu a1, 3(a0)
    check(0x852c, Use::Load, 2, Data::Unsigned(11), 0x1002); // c.lhu a1, 2(a0)
    check(0x854c, Use::Load, 2, Data::Signed(11), 0x1000); // c.lh a1, 0(a0)
    check(0x890c, Use::Store, 1, Data::Unsigned(11), 0x1000); // c.sb a1, 0(a0)
    check(0x8d2c, Use::Store, 2, Data::Unsigned(11), 0x1002); // c.sh a1, 2(a0)
    check(0x357e, Use::Load, 8, Data::Float(10), 0x21f8); // c.fldsp fa0, 504(sp)
    check(0x557e, Use::Load, 4, Data::Signed(10), 0x20fc); // c.lwsp a0, 252(sp)
    check(0x757e, Use::Load, 8, Data::Signed(10), 0x21f8); // c.ldsp a0, 504(sp)
    check(0xbfaa, Use::Store, 8, Data::Float(10), 0x21f8); // c.fsdsp fa0, 504(sp)
    check(0xdfaa, Use::Store, 4, Data::Unsigned(10), 0x20fc); // c.swsp a0, 252(sp)
    check(0xffaa, Use::Store, 8, Data::Unsigned(10), 0x21f8); // c.sdsp a0, 504(sp)
}

#[test]
fn what_is_atomic_or_of_a_cache_block_is_no_move_of_a_register() {
    check(0x00b5_252f, Use::Store, 4, Data::Other, 0x1000); // amoadd.w a0, a1, (a0)
    check(0x1005_252f, Use::Load, 4, Data::Other, 0x1000); // lr.w a0, (a0)
    check(0x18b5_352f, Use::Store, 8, Data::Other, 0x1000); // sc.d a0, a1, (a0)
    check(0x0045_200f, Use::Store, 1, Data::Other, 0x1000); // cbo.zero (a0)
}

#[test]
fn a_vector_access_is_at_the_element_where_it_stopped() {
    check(0x0205_6407, Use::Load, 4, Data::Other, 0x100c); // vle32.v v8, (a0)
    check(0x0205_7427, Use::Store, 8, Data::Other, 0x1018); // vse64.v v8, (a0)
    check(0x2205_5407, Use::Load, 2, Data::Other, 0x100c); // vlseg2e16.v v8, (a0)
    check(0x2285_5407, Use::Load, 2, Data::Other, 0x1006); // vl2re16.v v8, (a0)
    check(0x0ab5_0407, Use::Load, 1, Data::Other, 0x1300); // vlse8.v v8, (a0), a1
    let indexed = Instruction::decode(0x0685_6407).unwrap(); // vluxei32.v v8, (a0), v8
    assert_eq!(indexed.address(&Model::default()).unwrap(), None);
}

#[test]
fn what_accesses_nothing_is_nothing() {
    // nop, ecall, fence, lb with a width that does not exist, c.nop, c.addi4spn, c.jr, Zcb's
    // c.zext.b and reserved words
    for word in [
        0x13,
        0x73,
        0x0ff0_000f,
        0x0005_7583,
        0x0001,
        0x0048,
        0x8082,
        0x9d61,
        0x8d4c,
        0x9000,
        0,
        u32::MAX,
    ] {
        assert_eq!(Instruction::decode(word), None, "{word:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_word_is_an_access_of_a_power_of_two_or_nothing(word: u32, x: u64, vstart: u64) {
        let mut hart = Model::default();
        (1..32).for_each(|number| hart.set(Register::X(number), x).unwrap());
        hart.set(Register::Vstart, vstart).unwrap();
        if let Some(found) = Instruction::decode(word) {
            prop_assert!(found.size.is_power_of_two() && found.size <= 16);
            prop_assert!(found.data == Data::Other || found.size <= 8);
            found.address(&hart).unwrap();
        }
    }
}
