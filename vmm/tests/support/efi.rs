//! An EFI program of a few instructions, and a disk that boots it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::{putchar, shutdown};
use super::linux::succeed;

/// What the program prints.
pub const TEXT: &str = "an EFI program is alive";

/// Where the partition begins, and its size, in sectors of 512 bytes.
const START: u32 = 2048;
const SIZE: u32 = 8 << 11;

/// Creates a disk with one partition, from which firmware boots a program that prints [`TEXT`] and
/// powers off.
pub fn disk(folder: &Path) -> PathBuf {
    let root = folder.join("files");
    fs::create_dir_all(root.join("EFI/BOOT")).unwrap();
    // UEFI 2.10 § 3.5.1.1: the name for removable media.
    fs::write(root.join("EFI/BOOT/BOOTRISCV64.EFI"), program()).unwrap();
    let disk = folder.join("disk");
    let sectors = u64::from(START + SIZE);
    File::create(&disk).unwrap().set_len(sectors * 512).unwrap();
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-E", &format!("offset={}", START * 512), "-d"])
            .arg(&root)
            .arg(&disk)
            .arg(format!("{}k", SIZE / 2)),
    );
    // The first entry of an MBR's partition table: active, of Linux.
    let mut entry = vec![0x80, 0, 0, 0, 0x83, 0, 0, 0];
    entry.extend([START, SIZE].map(u32::to_le_bytes).concat());
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&entry, 446).unwrap();
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    disk
}

/// Returns the program as PE32+ (Microsoft's PE format; UEFI 2.10 § 2.1.1) with one section.
fn program() -> Vec<u8> {
    const ALIGN: u32 = 0x200;
    let mut code: Vec<u8> = TEXT.bytes().flat_map(putchar).collect();
    code.extend(shutdown(0));
    code.resize(code.len().next_multiple_of(ALIGN as usize), 0);
    let size = code.len() as u32;
    let mut image = b"MZ".to_vec();
    image.resize(0x3c, 0);
    let mut words = |halves: &[u16], words: &[u32]| {
        image.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    // The offset of the PE header, and its signature.
    words(&[], &[0x40, u32::from_le_bytes(*b"PE\0\0")]);
    // RISC-V 64, one section, no symbols; 112 + 16 × 8 bytes of optional header; executable.
    words(&[0x5064, 1], &[0, 0, 0]);
    words(&[240, 0x0206], &[]);
    // PE32+: sizes of code and data, entry point, base of code; image base 0; alignments.
    words(&[0x20b, 0], &[size, 0, 0, ALIGN, ALIGN, 0, 0, ALIGN, ALIGN]);
    // Versions; the image's and the headers' sizes, no checksum.
    words(&[0; 6], &[0, ALIGN + size, ALIGN, 0]);
    // An EFI application. No stack or heap is reserved; 16 empty data directories.
    words(&[10, 0], &[0; 8]);
    words(&[], &[0, 16]);
    words(&[], &[0; 32]);
    // The section: name, size and address in memory, size and offset in the file; code, readable.
    words(
        &[],
        &[
            u32::from_le_bytes(*b".tex"),
            u32::from_le_bytes(*b"t\0\0\0"),
        ],
    );
    words(&[], &[size, ALIGN, size, ALIGN, 0, 0, 0, 0x6000_0020]);
    image.resize(ALIGN as usize, 0);
    image.extend(code);
    image
}
