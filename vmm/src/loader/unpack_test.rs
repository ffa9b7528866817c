//! Compressed kernels: valid, truncated, damaged, with wrong lengths, and too large.

use std::os::unix::fs::FileExt;

use super::kernels::{Elf, image};
use super::packed::{gzip, zboot, zstd};
use super::{auto, open, two_segments};
use crate::config::{self, KernelFormat};
use crate::error::Error;
use crate::layout::{KERNEL_BASE, MIB};
use crate::loader::{Format, Kernel, KernelError};

fn kernel(bytes: &[u8]) -> Kernel {
    open(bytes).unwrap()
}

/// Returns the first bytes of the file that the kernel is loaded from.
fn content(kernel: &Kernel, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    kernel.file().read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn an_elf_or_image_is_found_in_each_compression() {
    let (elf, image) = (two_segments().bytes(), image(0x20_0000, 0x30_0000, 200_000));
    for (what, format) in [(&elf, Format::Elf), (&image, Format::Image)] {
        let plain = kernel(what);
        assert_eq!(plain.compression(), None);
        for (packed, compression) in [
            (gzip(what), "gzip"),
            (zstd(what), "zstd"),
            (zboot("gzip", &gzip(what)), "gzip"),
            (zboot("zstd", &zstd(what)), "zstd"),
            (zboot("zstd22", &zstd(what)), "zstd"),
        ] {
            let unpacked = kernel(&packed);
            assert_eq!(unpacked.compression(), Some(compression));
            assert_eq!(unpacked.format(), format);
            assert_eq!(unpacked.entry(), plain.entry());
            assert_eq!(unpacked.segments(), plain.segments());
            assert!(content(&unpacked, what.len()) == *what);
        }
    }
}

#[test]
fn members_in_a_row_are_one_kernel_and_what_follows_them_is_none_of_it() {
    let elf = two_segments().bytes();
    let (first, second) = elf.split_at(100);
    for pack in [gzip, zstd] {
        let mut packed = [pack(first), pack(second)].concat();
        assert_eq!(kernel(&packed).segments(), kernel(&elf).segments());
        packed.extend(b"a signature");
        assert_eq!(kernel(&packed).segments(), kernel(&elf).segments());
    }
}

#[test]
fn every_cut_is_refused_as_such() {
    let elf = two_segments().bytes();
    for whole in [gzip(&elf), zstd(&elf)] {
        for length in 5..whole.len() {
            let error = open(&whole[..length]).unwrap_err();
            assert!(error.contains("data is truncated"), "{length}: {error}");
        }
    }
    let whole = zboot("gzip", &gzip(&elf));
    for length in 8..whole.len() - 21 {
        let error = open(&whole[..length]).unwrap_err();
        assert!(error.contains("is truncated: its EFI zboot"), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let elf = two_segments().bytes();
    for (whole, start) in [(gzip(&elf), 10), (zstd(&elf), 5)] {
        let mut harmless = 0;
        for at in start..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            match open(&bytes) {
                Err(error) => {
                    let kind = [
                        "data is corrupt",
                        "data is truncated",
                        "larger than the guest's RAM",
                    ];
                    assert!(
                        kind.iter().any(|kind| error.contains(kind)),
                        "{at}: {error}"
                    );
                    assert!(!error.contains('\n'), "{at}: {error}");
                }
                // An unused bit, such as the padding of the last byte.
                Ok(kernel) => {
                    assert!(content(&kernel, elf.len()) == elf, "{at}");
                    harmless += 1;
                }
            }
        }
        assert!(harmless < whole.len() / 10, "{harmless} of {}", whole.len());
    }
}

#[test]
fn zboot_headers_that_lie_are_refused() {
    let packed = gzip(&two_segments().bytes());
    let refused = |at: usize, bytes: &[u8], part: &str| {
        let mut file = zboot("gzip", &packed);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = open(&file).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    refused(
        0x18,
        b"lzma\0",
        "compressed by \"lzma\", expected gzip or zstd",
    );
    refused(0x18, b"zstd\0", "its zstd data is corrupt");
    refused(0x18, &[b'x'; 32], "expected gzip or zstd");
    refused(
        0x08,
        &[0xff; 8],
        "is truncated: its EFI zboot payload ends at byte 8589934590",
    );
    refused(0x08, &[0; 4], "bytes of payload at byte 0");
    refused(0x0c, &[0; 4], "0 bytes of payload");
    refused(0x08, &[0x41], "its gzip data is corrupt");
}

#[test]
fn nothing_larger_than_the_guests_ram_is_unpacked() {
    let bomb = vec![0; 33 << 20];
    let file = tempfile::NamedTempFile::new().unwrap();
    for packed in [gzip(&bomb), zstd(&bomb), gzip(&bomb[..17 << 20]).repeat(20)] {
        assert!(packed.len() < 2 << 20);
        std::fs::write(file.path(), packed).unwrap();
        let error = Kernel::open(&auto(file.path()), 32 * MIB).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            matches!(error, Error::Kernel(KernelError::Unpacked { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("guest's RAM, 32M"), "{error}");
    }
}

#[test]
fn a_window_that_no_memory_holds_is_refused() {
    // A frame header that asks for a window of 3.75 TiB (RFC 8878 § 3.1.1.1.2), then an empty last
    // block.
    let error = open(b"\x28\xb5\x2f\xfd\0\xff\x01\0\0").unwrap_err();
    assert!(error.contains("its zstd data is corrupt"), "{error}");
}

#[test]
fn what_is_inside_is_named_when_it_is_no_kernel() {
    let refused = |packed: &[u8], parts: &[&str]| {
        let error = open(packed).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    };
    refused(
        &gzip(b"hello\n"),
        &["decompressed from gzip, 6 bytes: kernel", "a text file"],
    );
    let other = Elf { machine: 62, ..two_segments() };
    refused(
        &zstd(&other.bytes()),
        &["decompressed from zstd", "an ELF for x86_64"],
    );
    let elf = two_segments().bytes();
    refused(
        &gzip(&elf[..200]),
        &["decompressed from gzip, 200 bytes", "is truncated"],
    );
    refused(
        &gzip(&zstd(&elf)),
        &[
            "decompressed from gzip",
            "compressed twice",
            "only one layer",
        ],
    );
    refused(&gzip(&zboot("gzip", &gzip(&elf))), &["compressed twice"]);
    refused(&gzip(b""), &["its gzip data decompress to nothing"]);
}

#[test]
fn a_format_asked_for_is_insisted_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |bytes: &[u8], format| {
        std::fs::write(file.path(), bytes).unwrap();
        let path = file.path().into();
        Kernel::open(&config::Kernel { path, format }, 32 * MIB).map_err(|error| error.chain())
    };
    let (elf, image) = (two_segments().bytes(), image(0x20_0000, 0x30_0000, 5000));
    assert!(open(&elf, KernelFormat::Elf).is_ok());
    assert!(open(&gzip(&image), KernelFormat::Image).is_ok());
    let error = open(&elf, KernelFormat::Image).unwrap_err();
    assert!(
        error.contains("is an ELF: format=image was asked for"),
        "{error}"
    );
    let error = open(&gzip(&image), KernelFormat::Elf).unwrap_err();
    assert!(
        error.contains("is a flat Image: format=elf was asked for"),
        "{error}"
    );

    // Raw is raw, regardless of the content.
    let raw = open(&gzip(&elf), KernelFormat::Raw).unwrap();
    assert_eq!(
        (raw.format(), raw.compression(), raw.entry()),
        (Format::Raw, None, KERNEL_BASE)
    );
    assert_eq!(raw.segments()[0].memory_size, gzip(&elf).len() as u64);
    assert!(
        open(b"", KernelFormat::Raw)
            .unwrap_err()
            .contains("is empty")
    );
}
