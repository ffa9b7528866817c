//! Detects the format of a kernel file by its first bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::elf::{
    EM_68K, EM_386, EM_AARCH64, EM_ARM, EM_LOONGARCH, EM_MIPS, EM_PPC, EM_PPC64, EM_RISCV, EM_S390,
    EM_SPARCV9, EM_X86_64, Machine,
};

use super::error::KernelError;
use super::unpack::Compression;
use super::zboot;
use crate::error::Error;
use crate::host::files::FileError;

/// A kernel format that can be loaded, possibly after decompression.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A little-endian RISC-V 64-bit ELF file.
    Elf,
    /// A flat Image with the RISC-V boot image header.
    Image,
    /// An ELF file or an Image, compressed as a whole.
    Packed(Compression),
    /// An ELF file or an Image, compressed inside an EFI program that decompresses it.
    Zboot,
    /// Bytes that are not text and have no signature of a known format.
    Other,
}

/// Bytes to examine: up to the setup header of an x86 bzImage.
const HEAD: usize = 0x206;

/// What is expected, for the error message.
const EXPECTED: &str = "expected a flat RISC-V Linux Image or a RISC-V 64-bit ELF, uncompressed or compressed by gzip, zstd or EFI zboot";
const DECOMPRESS: &str = "only gzip and zstd are supported, decompress it first";
pub(super) const UNKNOWN: &str = "expected a flat RISC-V Linux Image or a RISC-V 64-bit ELF, uncompressed or compressed by gzip, zstd or EFI zboot; a binary without any header takes --kernel FILE,format=raw";

/// Unsupported formats by a signature at an offset. Those that may also start a PE file come first.
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (0x38, b"ARMd", "an arm64 Image", EXPECTED),
    (0x202, b"HdrS", "an x86 bzImage", EXPECTED),
    (
        0,
        b"MZ",
        "an EFI or Windows program without a RISC-V Image header",
        EXPECTED,
    ),
    (0, b"\xfd7zXZ\0", "xz-compressed", DECOMPRESS),
    (0, b"\x5d\0\0", "lzma-compressed", DECOMPRESS),
    (0, b"BZh", "bzip2-compressed", DECOMPRESS),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", DECOMPRESS),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed", DECOMPRESS),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", EXPECTED),
    (
        0,
        b"\xd0\x0d\xfe\xed",
        "a device tree (or a U-Boot FIT image)",
        EXPECTED,
    ),
    (0, b"070701", "a cpio archive: an initrd?", EXPECTED),
    (0, b"QFI\xfb", "a qcow2 disk image", EXPECTED),
    // UEFI PI 1.8 vol. 3 § 3.2.1: the header of a firmware volume.
    (
        0x28,
        b"_FVH",
        "EDK2 for flash memory, which the board does not have",
        EXPECTED,
    ),
    (0, b"#!", "a script", EXPECTED),
];

/// Detects the kernel's format, or returns what the file is instead.
pub(super) fn recognise(path: &Path, file: &File, length: u64) -> Result<Found, Error> {
    let mut head = vec![0; HEAD.min(usize::try_from(length).unwrap_or(HEAD))];
    file.read_exact_at(&mut head, 0)
        .map_err(FileError::read("kernel", path))?;
    from_head(&head).map_err(|(found, advice)| {
        Error::from(KernelError::Format { path: path.into(), found, advice })
    })
}

fn from_head(head: &[u8]) -> Result<Found, (String, &'static str)> {
    let has = |offset: usize, signature: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(signature))
    };
    if has(0, b"\x7fELF") {
        return from_elf_head(head);
    }
    if has(super::image::MAGIC2_OFFSET, super::image::MAGIC2) {
        return Ok(Found::Image);
    }
    if let Some(compression) = Compression::of(head) {
        return Ok(Found::Packed(compression));
    }
    if has(0, b"MZ") && has(zboot::MAGIC_OFFSET, zboot::MAGIC) {
        return Ok(Found::Zboot);
    }
    if let Some((_, _, found, advice)) = FOREIGN
        .iter()
        .find(|(offset, signature, ..)| has(*offset, signature))
    {
        return Err(((*found).into(), advice));
    }
    let text = head
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if text {
        return Err(("a text file".into(), EXPECTED));
    }
    Ok(Found::Other)
}

/// Checks class, byte order and machine, which are at the same offsets in every ELF file.
fn from_elf_head(head: &[u8]) -> Result<Found, (String, &'static str)> {
    let &[_, _, _, _, class, order, .., low, high] =
        head.first_chunk::<20>().ok_or_else(cut_off)?;
    let bytes = [low, high];
    let (what, machine) = match (class, order) {
        (1, 1) => ("a 32-bit ", u16::from_le_bytes(bytes)),
        (2, 1) => ("an ", u16::from_le_bytes(bytes)),
        (1, 2) => ("a 32-bit big-endian ", u16::from_be_bytes(bytes)),
        (2, 2) => ("a big-endian ", u16::from_be_bytes(bytes)),
        _ => {
            return Err((
                format!("an ELF of unknown class {class} or byte order {order}"),
                EXPECTED,
            ));
        }
    };
    let name = match Machine(machine) {
        EM_RISCV if (class, order) == (2, 1) => return Ok(Found::Elf),
        EM_RISCV => "RISC-V",
        EM_X86_64 => "x86_64",
        EM_386 => "x86",
        EM_AARCH64 => "arm64",
        EM_ARM => "arm",
        EM_PPC | EM_PPC64 => "PowerPC",
        EM_S390 => "s390",
        EM_MIPS => "MIPS",
        EM_SPARCV9 => "SPARC",
        EM_68K => "m68k",
        EM_LOONGARCH => "LoongArch",
        _ => return Err((format!("{what}ELF for machine {machine}"), EXPECTED)),
    };
    Err((format!("{what}ELF for {name}"), EXPECTED))
}

fn cut_off() -> (String, &'static str) {
    ("an ELF, truncated within its header".into(), EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(head: &[u8]) -> String {
        from_head(head).unwrap_err().0
    }

    fn elf(class: u8, order: u8, machine: u16) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([class, order, 1]);
        head.resize(18, 0);
        head.extend(if order == 2 {
            machine.to_be_bytes()
        } else {
            machine.to_le_bytes()
        });
        head
    }

    #[test]
    fn elf_files_of_other_machines_are_named() {
        assert_eq!(from_head(&elf(2, 1, 243)), Ok(Found::Elf));
        assert_eq!(refused(&elf(1, 1, 243)), "a 32-bit ELF for RISC-V");
        assert_eq!(refused(&elf(2, 1, 62)), "an ELF for x86_64");
        assert_eq!(refused(&elf(2, 1, 183)), "an ELF for arm64");
        assert_eq!(refused(&elf(2, 2, 22)), "a big-endian ELF for s390");
        assert_eq!(refused(&elf(2, 1, 9999)), "an ELF for machine 9999");
        assert_eq!(
            refused(b"\x7fELF\x02"),
            "an ELF, truncated within its header"
        );
    }

    #[test]
    fn other_formats_are_named() {
        let mut arm64 = vec![0; 0x40];
        arm64[..2].copy_from_slice(b"MZ");
        arm64[0x38..0x3c].copy_from_slice(b"ARMd");
        assert_eq!(refused(&arm64), "an arm64 Image");
        assert_eq!(refused(b"\xfd7zXZ\0"), "xz-compressed");
        assert_eq!(refused(b"root:x:0:0:root:/root:/bin/bash\n"), "a text file");
        let mut volume = vec![0; 0x30];
        volume[0x28..0x2c].copy_from_slice(b"_FVH");
        assert!(refused(&volume).starts_with("EDK2 for flash memory"));
        assert_eq!(from_head(b"\0\0\0\0"), Ok(Found::Other));
    }

    #[test]
    fn what_is_packed_is_recognised_by_its_content() {
        assert_eq!(
            from_head(b"\x1f\x8b\x08\0"),
            Ok(Found::Packed(Compression::Gzip))
        );
        assert_eq!(
            from_head(b"\x28\xb5\x2f\xfd\0"),
            Ok(Found::Packed(Compression::Zstd))
        );
        assert_eq!(from_head(b"MZ\0\0zimg"), Ok(Found::Zboot));
    }
}
