//! EFI zboot: a compressed kernel within a small EFI program that unpacks and starts it (`vmlinuz.efi`).
//!
//! ```text
//! 0x00 "MZ"   0x04 "zimg"   0x08 payload offset   0x0c payload size   0x18 compression, a C string, to 0x38
//! ```
//! Little-endian, sizes in bytes; drivers/firmware/efi/libstub/zboot-header.S of Linux. There is no UEFI here to run the
//! program, so the payload is unpacked without it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::unpack::Packing;
use crate::error::Error;

/// Where the magic number lies.
pub(super) const MAGIC_OFFSET: usize = 4;
/// The magic number, behind the "MZ" of every EFI program.
pub(super) const MAGIC: &[u8] = b"zimg";

/// Size in bytes of the header, up to the magic number of the Linux EFI stub.
const HEADER: usize = 0x38;

/// How the payload is compressed, and where in the file of `length` bytes it lies.
pub(super) fn payload(
    path: &Path,
    file: &File,
    length: u64,
) -> Result<(Packing, Range<u64>), Error> {
    let wrong = |problem| Error::KernelHeader {
        path: path.into(),
        problem,
    };
    let truncated = |part: &str, end| Error::KernelTruncated {
        path: path.into(),
        part: part.into(),
        end,
        length,
    };
    if length < HEADER as u64 {
        return Err(truncated("EFI zboot header", HEADER as u64));
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)
        .map_err(|source| Error::Read {
            what: "kernel",
            path: path.into(),
            source,
        })?;
    let &[
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        o0,
        o1,
        o2,
        o3,
        s0,
        s1,
        s2,
        s3,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        ref name @ ..,
    ] = &header;
    let offset = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
    let size = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let packing = match name {
        b"gzip" => Packing::Gzip,
        b"zstd" | b"zstd22" => Packing::Zstd,
        name => {
            return Err(wrong(format!(
                "its EFI zboot payload is compressed by {:?}, expected gzip or zstd",
                String::from_utf8_lossy(name)
            )));
        }
    };
    if offset < HEADER as u64 || size == 0 {
        return Err(wrong(format!(
            "its EFI zboot header puts {size} bytes of payload at byte {offset}, expected some behind the header of {HEADER}"
        )));
    }
    match offset + size {
        end if end > length => Err(truncated("EFI zboot payload", end)),
        end => Ok((packing, offset..end)),
    }
}
