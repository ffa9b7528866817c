//! Detects, places and copies kernels built by hand.

use std::io::Write;

use super::*;
use crate::layout::{KERNEL_BASE, MIB, RAM_BASE};

#[path = "unpack_test.rs"]
mod unpack_test;

#[allow(dead_code, unreachable_pub, clippy::cast_possible_truncation)]
#[path = "../../tests/support/kernel.rs"]
mod kernels;
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/support/packed.rs"]
mod packed;
use kernels::{Elf, Segment as Load, image};

fn open(bytes: &[u8]) -> Result<Kernel, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Kernel::open(&auto(file.path()), 256 * MIB).map_err(|error| error.chain())
}

fn auto(path: &Path) -> config::Kernel {
    config::Kernel { path: path.into(), format: KernelFormat::Auto }
}

fn two_segments() -> Elf {
    let mut elf = Elf::new(KERNEL_BASE, &[1; 100]);
    elf.segments
        .push(Load::load(KERNEL_BASE + 0x1000, &[2; 50], 0x3000));
    elf
}

#[test]
fn an_executable_is_placed_at_its_physical_addresses() {
    let mut elf = two_segments();
    for segment in &mut elf.segments {
        segment.vaddr += 0xffff_0000_0000_0000;
    }
    elf.entry = elf.segments[0].vaddr + 8;
    let kernel = open(&elf.bytes()).unwrap();
    assert_eq!(
        (kernel.format(), kernel.entry()),
        (Format::Elf, KERNEL_BASE + 8)
    );
    let expected =
        Segment { offset: 276, file_size: 50, address: KERNEL_BASE + 0x1000, memory_size: 0x3000 };
    assert_eq!(kernel.segments()[1], expected);
}

#[test]
fn a_static_pie_goes_to_the_kernel_base_with_its_entry() {
    let mut elf = Elf::new(0x1_0040, &[1; 100]);
    elf.kind = 3;
    elf.entry = 0x1_0044;
    let kernel = open(&elf.bytes()).unwrap();
    assert_eq!(
        (kernel.format(), kernel.entry()),
        (Format::StaticPie, KERNEL_BASE + 0x44)
    );
    assert_eq!(kernel.segments()[0].address, KERNEL_BASE + 0x40);
}

#[test]
fn every_cut_of_an_elf_is_refused_as_such() {
    let whole = two_segments().bytes();
    for length in 1..whole.len() {
        let error = open(&whole[..length]).unwrap_err();
        let cut = error.contains("truncated")
            || error.contains("cut off")
            || error.contains("unknown format")
            || error.contains("text file");
        assert!(
            cut && (length < 64 || error.contains("truncated")),
            "{length}: {error}"
        );
    }
}

#[test]
fn contradictory_elf_headers_are_refused_with_the_values() {
    let refused = |change: &dyn Fn(&mut Elf), part: &str| {
        let mut elf = two_segments();
        change(&mut elf);
        let error = open(&elf.bytes()).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    refused(&|elf| elf.class = 1, "32-bit ELF for RISC-V");
    refused(&|elf| elf.machine = 62, "ELF for x86_64");
    refused(&|elf| elf.kind = 1, "ELF type is 1");
    refused(&|elf| elf.segments.clear(), "no segment to load");
    refused(&|elf| elf.entry = 0x1234, "entry point 0x1234");
    refused(&|elf| elf.segments[0].flags = 6, "entry point");
    refused(&|elf| elf.segments[0].kind = 3, "dynamically linked");
    refused(
        &|elf| elf.segments[1].memory_size = 49,
        "50 bytes in the file, only 49",
    );
    refused(
        &|elf| elf.segments[1].file_size = Some(u64::MAX),
        "beyond 2^64",
    );
    refused(
        &|elf| elf.segments[1].file_size = Some(1 << 40),
        "truncated",
    );
    refused(&|elf| elf.segments[1].paddr = u64::MAX, "beyond 2^64");
    refused(
        &|elf| elf.segments[1].paddr = KERNEL_BASE + 99,
        "overlap at 0x80200063",
    );
}

#[test]
fn mutated_headers_never_panic() {
    let mut state = 1u64;
    let mut random = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let mut pie = two_segments();
    pie.kind = 3;
    let mut loadable = 0;
    for original in [
        two_segments().bytes(),
        pie.bytes(),
        image(0x20_0000, 0x10_0000, 4096),
    ] {
        for _ in 0..500 {
            let mut bytes = original.clone();
            for _ in 0..1 + random(3) {
                let at = 4 + random(172.min(bytes.len() - 4));
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)];
            }
            if let Ok(kernel) = open(&bytes) {
                loadable += usize::from(place(&kernel, Some(1), 64 * MIB).is_ok());
            }
        }
    }
    assert!(loadable > 0, "the mutations are too wild to test anything");
}

#[test]
fn an_image_takes_its_whole_size_with_bss() {
    let kernel = open(&image(0x20_0000, 0x30_0000, 5000)).unwrap();
    assert_eq!(
        (kernel.format(), kernel.entry()),
        (Format::Image, KERNEL_BASE)
    );
    let expected =
        Segment { offset: 0, file_size: 5000, address: KERNEL_BASE, memory_size: 0x30_0000 };
    assert_eq!(kernel.segments(), [expected]);
    let longer = open(&image(0, 4096, 5000)).unwrap();
    assert_eq!(
        (longer.entry(), longer.segments()[0].memory_size),
        (RAM_BASE, 5000)
    );
}

#[test]
fn image_headers_that_cannot_be_right_are_refused() {
    let refused = |at: usize, value: u8, part: &str| {
        let mut bytes = image(0x20_0000, 0x30_0000, 5000);
        bytes[at] = value;
        let error = open(&bytes).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    refused(0x09, 0x10, "text_offset is 0x201000");
    refused(0x12, 0, "image_size 0");
    refused(0x18, 1, "big-endian");
    refused(0x22, 1, "version 1.2");
    let error = open(&image(0x20_0000, u64::MAX, 5000)).unwrap_err();
    assert!(error.contains("beyond 2^64"), "{error}");
    let error = open(&image(0x20_0000, 0x30_0000, 5000)[..60]).unwrap_err();
    assert!(
        error.contains("Image header ends at byte 64, the file has 60"),
        "{error}"
    );
}

#[test]
fn initrd_and_device_tree_lie_high_and_apart() {
    let kernel = open(&two_segments().bytes()).unwrap();
    let placement = place(&kernel, Some(5000), 32 * MIB).unwrap();
    let end = RAM_BASE + 32 * MIB;
    assert_eq!(placement.fdt, end - FDT_MAX_SIZE);
    let initrd = placement.initrd.unwrap();
    assert_eq!(initrd, placement.fdt - 8192..placement.fdt - 8192 + 5000);
}

#[test]
fn nothing_but_ram_lies_beyond_4_gib() {
    let kernel = open(&two_segments().bytes()).unwrap();
    let placement = place(&kernel, None, 16 << 30).unwrap();
    assert_eq!(placement.fdt, LOW_END - FDT_MAX_SIZE);
}

#[test]
fn a_kernel_at_the_end_of_ram_is_not_overwritten() {
    let end = RAM_BASE + 32 * MIB;
    let kernel = open(&Elf::new(end - 4096, &[1; 4096]).bytes()).unwrap();
    let placement = place(&kernel, Some(MIB), 32 * MIB).unwrap();
    assert_eq!(placement.fdt, end - 4096 - FDT_MAX_SIZE);
    assert_eq!(placement.initrd.unwrap().end, placement.fdt);
}

#[test]
fn the_largest_initrd_that_fits_uses_the_gap_to_the_last_page() {
    let kernel = open(&image(0x20_0000, 0x20_0000, 5000)).unwrap();
    let room = 16 * MIB - 4 * MIB - FDT_MAX_SIZE;
    assert_eq!(
        place(&kernel, Some(room), 16 * MIB)
            .unwrap()
            .initrd
            .unwrap()
            .start,
        KERNEL_BASE + 2 * MIB
    );
    let error = place(&kernel, Some(room + 1), 16 * MIB)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("needs {} bytes", room + 1))
            && error.contains(&format!("has {room}")),
        "{error}"
    );
    assert!(place(&kernel, Some(u64::MAX), 16 * MIB).is_err());

    // More memory would not help here.
    for memory in [16 * MIB, 8 << 30] {
        let error = place(&kernel, Some(4 << 30), memory).unwrap_err();
        let error = error.to_string();
        assert!(
            error.ends_with("more RAM would be above that, so use a smaller one"),
            "{error}"
        );
    }
}

#[test]
fn linux_gets_nothing_below_itself() {
    let kernel = open(&image(0x20_0000, 13 * MIB, 5000)).unwrap();
    assert!(place(&kernel, None, 16 * MIB).is_ok());
    assert!(place(&kernel, Some(4096), 16 * MIB).is_err());
}

#[test]
fn what_lies_outside_ram_is_named_with_what_to_do() {
    let outside = |bytes: &[u8], part: &str| {
        let error = place(&open(bytes).unwrap(), None, 16 * MIB).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(part), "{error}");
    };
    outside(
        &image(0x20_0000, 20 * MIB, 5000),
        "0x80200000..0x81600000, outside RAM (0x80000000..0x81000000, --memory 16M): raise --memory",
    );
    outside(
        &Elf::new(1 << 62, &[0; 8]).bytes(),
        "no board has RAM there",
    );
    outside(
        &Elf::new(0x1_0000, &[0; 8]).bytes(),
        "link it at 0x80200000 or above",
    );
    outside(
        &Elf::new(0x8100_0000, &[0; 8]).bytes(),
        "0x81000000..0x81000008",
    );
}

#[test]
fn the_bytes_arrive_at_their_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let (kernel, initrd) = (
        directory.path().join("kernel"),
        directory.path().join("initrd"),
    );
    std::fs::write(&kernel, two_segments().bytes()).unwrap();
    std::fs::write(&initrd, b"070701 and so on").unwrap();
    let kernel = Kernel::open(&auto(&kernel), 16 * MIB).unwrap();
    let opened = Initrd::open(&initrd).unwrap();
    let placement = place(&kernel, Some(opened.size), 16 * MIB).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_BASE), 16 << 20)]).unwrap();
    load(&kernel, Some(&opened), &placement, &memory).unwrap();
    let at = |address: u64, length: usize| {
        let mut bytes = vec![0xaa; length];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    };
    assert_eq!(at(KERNEL_BASE, 101), [&[1; 100][..], &[0]].concat());
    assert_eq!(at(KERNEL_BASE + 0x1000, 51), [&[2; 50][..], &[0]].concat());
    assert_eq!(
        at(placement.initrd.as_ref().unwrap().start, 16),
        b"070701 and so on"
    );

    std::fs::write(&initrd, b"short").unwrap();
    let error = load(&kernel, Some(&opened), &placement, &memory)
        .unwrap_err()
        .chain();
    assert!(
        error.contains("initrd") && error.contains("shrank"),
        "{error}"
    );
}

/// As after a reboot of the guest, when everything is copied again.
#[test]
fn a_file_that_was_written_in_place_is_refused_and_one_that_was_replaced_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_BASE), 16 << 20)]).unwrap();
    for written in ["kernel", "initrd"] {
        std::fs::write(path("kernel"), two_segments().bytes()).unwrap();
        std::fs::write(path("initrd"), b"070701 and so on").unwrap();
        let kernel = Kernel::open(&auto(&path("kernel")), 16 * MIB).unwrap();
        let initrd = Initrd::open(&path("initrd")).unwrap();
        let placement = place(&kernel, Some(initrd.size), 16 * MIB).unwrap();
        let load = || load(&kernel, Some(&initrd), &placement, &memory);

        let aside = path("aside");
        std::fs::rename(path(written), &aside).unwrap();
        std::fs::write(path(written), "something else").unwrap();
        load().unwrap();

        let file = File::options().write(true).open(&aside).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let error = load().unwrap_err();
        assert!(matches!(error, Error::File(FileError::Changed { what, .. }) if what == written));
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn an_image_arrives_whole_behind_its_text_offset() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_BASE), 16 << 20)]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let original = image(0x40_0000, MIB, 5000);
    std::fs::write(file.path(), &original).unwrap();
    let kernel = Kernel::open(&auto(file.path()), 16 * MIB).unwrap();
    let placement = place(&kernel, None, 16 * MIB).unwrap();
    load(&kernel, None, &placement, &memory).unwrap();
    let mut seen = vec![0; original.len()];
    memory
        .read_slice(&mut seen, GuestAddress(RAM_BASE + 0x40_0000))
        .unwrap();
    assert!(seen == original);
}
