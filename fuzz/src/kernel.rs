//! Kernel files: any bytes, mostly a changed ELF or Image, plain or compressed here, so that faults
//! behind a valid gzip header are found too.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use vmm::config::{self, KernelFormat};
use vmm::layout::{self, FDT_MAX_SIZE, KERNEL_BASE, MIB};
use vmm::loader::{Format, Kernel, place};

use crate::file::{new_file, path};

/// The guest's RAM: room for a kernel at the usual address.
const MEMORY: u64 = 16 * MIB;

const FORMATS: [KernelFormat; 4] = [
    KernelFormat::Auto,
    KernelFormat::Elf,
    KernelFormat::Image,
    KernelFormat::Raw,
];

/// Kernels of each kind and compression, and one that unpacks to more than the limit.
pub fn seeds() -> Vec<Vec<u8>> {
    let kernels = [elf(2), elf(3), image()];
    let mut files = kernels.to_vec();
    for kernel in &kernels {
        files.extend([gzip(kernel), zstd(kernel)]);
        files.extend([zboot("gzip", &gzip(kernel)), zboot("zstd", &zstd(kernel))]);
    }
    let bomb = vec![0; MEMORY as usize + 1];
    files.extend([zstd(&bomb), gzip(&bomb)]);
    let plain = files.iter().map(|file| [&[0; 3], file.as_slice()].concat());
    let packed = kernels
        .iter()
        .flat_map(|kernel| [1, 2, 3].map(|way| [&[way, 0, 0], kernel.as_slice()].concat()));
    // Each word of each header, off by one in both directions.
    let nudged = kernels.iter().flat_map(|kernel| {
        let ways = (0..26).flat_map(|word| [1, 0xff].map(|by| [0, word, by]));
        ways.map(|how| [&how, kernel.as_slice()].concat())
    });
    plain.chain(packed).chain(nudged).collect()
}

/// Runs a case: a byte for the compression, two that select a word to change, then the kernel.
/// Panics if an accepted kernel cannot be loaded as described.
pub fn run(case: &[u8]) {
    let Some(([how, which, by], bytes)) = case.split_first_chunk() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    nudge(&mut bytes, (*which).into(), *by as i8);
    let bytes = pack(how % 4, &bytes);
    let file = new_file(&bytes);
    let option = config::Kernel { path: path(&file), format: FORMATS[usize::from(how / 64)] };
    let Ok(kernel) = Kernel::open(&option, MEMORY) else {
        return;
    };
    let length = kernel.file().metadata().expect("a file").len();
    if kernel.compression().is_some() {
        assert!(length <= MEMORY, "{length} bytes were unpacked");
    }
    let mut free = 0;
    for segment in kernel.segments() {
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.offset <= length && segment.file_size <= length - segment.offset);
        assert!(segment.address >= free, "segments overlap");
        free = segment
            .address
            .checked_add(segment.memory_size)
            .expect("an end");
    }
    let within = |segment: &vmm::loader::Segment| segment.range().contains(&kernel.entry());
    assert!(
        kernel.segments().iter().any(within),
        "entry {:#x}",
        kernel.entry()
    );
    assert!(kernel.format() != Format::Raw || how / 64 == 3);

    let initrd_len = (how & 4 != 0).then_some(MIB);
    let Ok(placement) = place(&kernel, initrd_len, MEMORY) else {
        return;
    };
    let fdt = placement.fdt..placement.fdt + FDT_MAX_SIZE;
    let mut all: Vec<_> = kernel.segments().iter().map(|it| it.range()).collect();
    all.extend(placement.initrd.iter().cloned().chain([fdt]));
    all.sort_by_key(|range| range.start);
    let ram = layout::ram(MEMORY);
    assert!(
        all.iter()
            .all(|range| ram.start <= range.start && range.end <= ram.end)
    );
    assert!(
        all.is_sorted_by(|one, next| one.end <= next.start),
        "{all:x?} overlap"
    );
}

/// Adds a small number to word `which`: headers consist of words, and off-by-one errors are small.
fn nudge(bytes: &mut [u8], which: usize, by: i8) {
    if let Some(word) = bytes.chunks_exact_mut(8).nth(which)
        && let Ok(old) = <[u8; 8]>::try_from(&*word)
    {
        let new = u64::from_le_bytes(old).wrapping_add_signed(by.into());
        word.copy_from_slice(&new.to_le_bytes());
    }
}

/// How the bytes become a kernel file.
fn pack(way: u8, bytes: &[u8]) -> Vec<u8> {
    match way {
        0 => bytes.to_vec(),
        1 => gzip(bytes),
        2 => zstd(bytes),
        _ => zboot("gzip", &gzip(bytes)),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// An EFI zboot file (vmm/src/loader/zboot.rs).
fn zboot(compression: &str, payload: &[u8]) -> Vec<u8> {
    let mut file = b"MZ\0\0zimg".to_vec();
    file.extend(64_u32.to_le_bytes());
    file.extend((payload.len() as u32).to_le_bytes());
    file.extend([0; 8]);
    file.extend(compression.as_bytes());
    file.resize(64, 0);
    file.extend(payload);
    file
}

/// An ELF of two adjacent segments, which a small change makes overlap; `kind` 2 is ET_EXEC, 3
/// ET_DYN.
fn elf(kind: u16) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [kind, 243, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [KERNEL_BASE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (offset, address) in [(176_u64, KERNEL_BASE), (192, KERNEL_BASE + 0x1000)] {
        file.extend([1_u32, 7].map(u32::to_le_bytes).concat());
        let words = [offset, address, address, 16, 0x1000, 0x1000];
        file.extend(words.map(u64::to_le_bytes).concat());
    }
    file.resize(208, 1);
    file
}

/// A flat Image.
fn image() -> Vec<u8> {
    let mut file = vec![0; 8];
    file.extend([0x20_0000, 0x1000, 0, 2, 0].map(u64::to_le_bytes).concat());
    file.extend(b"RISCV\0\0\0RSC\x05\0\0\0\0");
    file.resize(128, 1);
    file
}
