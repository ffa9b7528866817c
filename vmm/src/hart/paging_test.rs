use proptest::prelude::*;

use super::*;
use crate::hart::model::Model;

const RAM: u64 = 0x8000_0000;
const SIZE: usize = 1 << 20;
const ROOT: u64 = RAM + 0x1000;
const MIDDLE: u64 = RAM + 0x2000;
const LEAVES: u64 = RAM + 0x3000;

/// V, R, W, X, A and D.
const RWX: u64 = 0xcf;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), SIZE)]).unwrap()
}

fn put(memory: &GuestMemoryMmap, table: u64, index: u64, entry: u64) {
    let at = GuestAddress(table + index * ENTRY);
    memory.store(entry, at, Ordering::Relaxed).unwrap();
}

fn table(address: u64) -> u64 {
    (address >> 2) | pte::VALID
}

fn page(address: u64, bits: u64) -> u64 {
    (address >> 2) | bits
}

fn paging(mode: u64, status: u64, privilege: u64) -> Paging {
    Paging::of(&Model::new(&[
        (Register::Satp, mode << 60 | ROOT >> 12),
        (Register::Sstatus, status),
        (Register::Mode, privilege),
    ]))
    .unwrap()
}

const SV39: u64 = 8;

#[test]
fn without_paging_an_address_is_itself() {
    assert_eq!(
        paging(0, 0, 1).walk(&memory(), 0xffff_0000_1234_5678, Use::Fetch),
        Ok(0xffff_0000_1234_5678)
    );
}

#[test]
fn three_four_and_five_levels_lead_to_the_page() {
    for (mode, levels) in [(8, 3), (9, 4), (10, 5)] {
        let memory = memory();
        // Each table's address is in the first entry of the table above.
        for level in 1..levels {
            let (this, next) = (ROOT + (level - 1) * PAGE, ROOT + level * PAGE);
            put(&memory, this, 0, table(next));
        }
        put(
            &memory,
            ROOT + (levels - 1) * PAGE,
            5,
            page(0x1000_0000, RWX),
        );
        let found = paging(mode, 0, 1).walk(&memory, 0x5123, Use::Load);
        assert_eq!(found, Ok(0x1000_0123), "mode {mode}");
    }
}

#[test]
fn large_pages_and_the_upper_half_are_mapped() {
    let memory = memory();
    put(&memory, ROOT, 511, page(0x8000_0000, RWX)); // 1 GiB at the top
    put(&memory, ROOT, 1, table(MIDDLE));
    put(&memory, MIDDLE, 3, page(0x8060_0000, RWX)); // 2 MiB
    let walk = |address| paging(SV39, 0, 1).walk(&memory, address, Use::Load);
    assert_eq!(walk(0xffff_ffff_c012_3456), Ok(0x8012_3456));
    assert_eq!(walk(0x4061_2345), Ok(0x8061_2345));
    // Upper bits that do not repeat bit 38.
    assert_eq!(walk(0x0000_00ff_c012_3456), Err(Refused::Page));
}

#[test]
fn sixteen_pages_together_take_the_low_bits_from_the_address() {
    let memory = memory();
    put(&memory, ROOT, 0, table(MIDDLE));
    put(&memory, MIDDLE, 0, table(LEAVES));
    let napot = page(0x8008_0000 | 8 << 12, RWX) | pte::NAPOT;
    put(&memory, LEAVES, 0xb, napot);
    let found = paging(SV39, 0, 1).walk(&memory, 0xb123, Use::Load);
    assert_eq!(found, Ok(0x8008_b123));
}

#[test]
fn what_a_page_is_for_is_respected() {
    let (sum, mxr) = (sstatus::SUM, sstatus::MXR);
    let cases = [
        // bits, sstatus, privilege, use, allowed
        (pte::READ, 0, 1, Use::Load, true),
        (pte::READ, 0, 1, Use::Store, false),
        (pte::READ, 0, 1, Use::Fetch, false),
        (pte::EXECUTE, 0, 1, Use::Load, false),
        (pte::EXECUTE, mxr, 1, Use::Load, true),
        (pte::EXECUTE, 0, 1, Use::Fetch, true),
        (pte::READ, 0, 0, Use::Load, false),
        (pte::READ | pte::USER, 0, 0, Use::Load, true),
        (pte::READ | pte::USER, 0, 1, Use::Load, false),
        (pte::READ | pte::USER, sum, 1, Use::Load, true),
        (pte::EXECUTE | pte::USER, sum, 1, Use::Fetch, false),
        (pte::EXECUTE | pte::USER, 0, 0, Use::Fetch, true),
        (pte::WRITE, 0, 1, Use::Store, false),
    ];
    for (bits, status, privilege, what, allowed) in cases {
        let memory = memory();
        put(&memory, ROOT, 0, page(0x4000_0000, bits | pte::VALID));
        let found = paging(SV39, status, privilege).walk(&memory, 0x10, what);
        let expected = allowed.then_some(0x4000_0010).ok_or(Refused::Page);
        assert_eq!(
            found, expected,
            "{bits:#x} {status:#x} {privilege} {what:?}"
        );
    }
}

#[test]
fn what_maps_nothing_is_a_page_fault_and_a_table_outside_ram_is_not() {
    let memory = memory();
    put(&memory, ROOT, 1, table(0x1000_1000));
    put(&memory, ROOT, 2, table(RAM + SIZE as u64));
    put(&memory, ROOT, 3, page(0x8000_1000, RWX)); // a misaligned page of 1 GiB
    put(&memory, ROOT, 4, table(MIDDLE));
    put(&memory, MIDDLE, 0, table(LEAVES));
    put(&memory, LEAVES, 0, table(LEAVES)); // a table below the last level
    let walk = |index: u64| paging(SV39, 0, 1).walk(&memory, index << 30, Use::Load);
    assert_eq!(walk(0), Err(Refused::Page));
    assert_eq!(walk(1), Err(Refused::Table));
    assert_eq!(walk(2), Err(Refused::Table));
    assert_eq!(walk(3), Err(Refused::Page));
    assert_eq!(walk(4), Err(Refused::Page));
    assert_eq!(
        paging(7, 0, 1).walk(&memory, 0, Use::Load),
        Err(Refused::Page)
    );
}

proptest! {
    #[test]
    fn any_table_leads_somewhere_or_nowhere(
        mode: u64,
        address: u64,
        status: u64,
        entries in prop::collection::vec((0..4_u64, 0..512_u64, any::<u64>()), 0..8),
    ) {
        let memory = memory();
        for (table, index, entry) in entries {
            // Half of the entries point back into the tables.
            let entry = if entry & 2 == 0 { (entry & 0x3ff) | (ROOT >> 2) } else { entry };
            put(&memory, ROOT + table * PAGE, index, entry);
        }
        for what in [Use::Load, Use::Store, Use::Fetch] {
            if let Ok(physical) = paging(8 + mode % 3, status, status & 1).walk(&memory, address, what) {
                prop_assert_eq!(physical % PAGE, address % PAGE);
                prop_assert!(physical < 1 << 56);
            }
        }
    }
}
