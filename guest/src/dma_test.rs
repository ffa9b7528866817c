use core::sync::atomic::Ordering::Relaxed;

use crate::Error;
use crate::dma::PAGE;
use crate::model::{BUS, Memory};

#[test]
fn regions_are_zeroed_pages_that_follow_each_other() {
    let memory = Memory::new();
    memory.write(BUS, &[0xff; 3 * PAGE]);
    let mut dma = memory.dma();
    let first = dma.alloc(1).unwrap();
    let second = dma.alloc(PAGE + 1).unwrap();
    let third = dma.alloc(5).unwrap();
    assert_eq!(
        (first.bus(), second.bus(), third.bus()),
        (BUS, BUS + 4096, BUS + 3 * 4096)
    );
    assert_eq!((first.len(), second.len(), third.len()), (1, PAGE + 1, 5));
    assert_eq!(memory.read(BUS, 1), [0]);
    assert_eq!(memory.read(BUS + 4096, PAGE + 1), [0; PAGE + 1]);
}

#[test]
fn an_exhausted_arena_says_what_is_left() {
    let memory = Memory::new();
    let mut dma = memory.dma();
    dma.alloc((1 << 20) - PAGE).unwrap();
    let left = dma.left();
    assert_eq!(left, PAGE);
    for wanted in [PAGE + 1, usize::MAX] {
        assert_eq!(
            dma.alloc(wanted).unwrap_err(),
            Error::OutOfDma { wanted, left }
        );
    }
    dma.alloc(PAGE).unwrap();
    assert_eq!(
        dma.alloc(1).unwrap_err(),
        Error::OutOfDma { wanted: 1, left: 0 }
    );
}

#[test]
fn words_are_little_endian_at_the_bus_address() {
    let memory = Memory::new();
    let region = memory.dma().alloc(32).unwrap();
    region.store_u16(2, 0x0102, Relaxed);
    region.store_u32(4, 0x0304_0506, Relaxed);
    region.store_u64(8, 0x0708_090a_0b0c_0d0e, Relaxed);
    let bytes = [0, 0, 2, 1, 6, 5, 4, 3, 0xe, 0xd, 0xc, 0xb, 0xa, 9, 8, 7];
    assert_eq!(memory.read(BUS, 16), bytes);
    assert_eq!(region.load_u16(2, Relaxed), 0x0102);
    assert_eq!(region.load_u32(4, Relaxed), 0x0304_0506);
    assert_eq!(region.load_u64(8, Relaxed), 0x0708_090a_0b0c_0d0e);
}

#[test]
fn a_slice_is_the_same_memory_under_a_later_address() {
    let memory = Memory::new();
    let region = memory.dma().alloc(100).unwrap();
    let slice = region.slice(10..20);
    slice.write(1, b"abc");
    assert_eq!((slice.bus(), slice.len()), (BUS + 10, 10));
    assert_eq!(memory.read(BUS + 11, 3), b"abc");
    let mut back = [0; 3];
    region.read(11, &mut back);
    assert_eq!(&back, b"abc");
}

#[test]
#[should_panic = "3 bytes at 98 are not inside a region of 100 bytes"]
fn an_access_past_the_end_panics() {
    let memory = Memory::new();
    memory.dma().alloc(100).unwrap().write(98, b"abc");
}

#[test]
#[should_panic = "misaligned access at 1"]
fn a_misaligned_word_panics() {
    let memory = Memory::new();
    memory.dma().alloc(100).unwrap().load_u16(1, Relaxed);
}
