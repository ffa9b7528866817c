//! EFI zboot: a compressed kernel in a small EFI program that decompresses and starts it
//! (`vmlinuz.efi`).
//!
//! ```text
//! 0x00 "MZ"   0x04 "zimg"   0x08 payload offset   0x0c payload size
//! 0x18 compression, a C string, to 0x38
//! ```
//! Little-endian, sizes in bytes; see Linux drivers/firmware/efi/libstub/zboot-header.S. There is
//! no UEFI here to run the program, so the payload is decompressed directly.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::header::Headed;
use super::unpack::Compression;
use crate::error::Error;

/// Offset of the magic number, in bytes.
pub(super) const MAGIC_OFFSET: usize = 4;
/// The magic number. Every EFI program has "MZ" before it.
pub(super) const MAGIC: &[u8] = b"zimg";

/// Size in bytes of the header, up to the magic number of the Linux EFI stub.
const HEADER: usize = 0x38;

/// Returns how the payload is compressed, and its position in the file of `length` bytes.
pub(super) fn payload(
    path: &Path,
    file: &File,
    length: u64,
) -> Result<(Compression, Range<u64>), Error> {
    let headed = Headed { path, file, length };
    let header = headed.read::<HEADER>("EFI zboot header")?;
    let word = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?).into());
    let (Some(offset), Some(size), Some(name)) = (word(8), word(12), header.get(24..)) else {
        return Err(headed.wrong("its EFI zboot header cannot be read".into()));
    };
    let (offset, size): (u64, u64) = (offset, size);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let compression = match name {
        b"gzip" => Compression::Gzip,
        b"zstd" | b"zstd22" => Compression::Zstd,
        name => {
            return Err(headed.wrong(format!(
                "its EFI zboot payload is compressed by {:?}, expected gzip or zstd",
                String::from_utf8_lossy(name)
            )));
        }
    };
    if offset < HEADER as u64 || size == 0 {
        return Err(headed.wrong(format!(
            "its EFI zboot header puts {size} bytes of payload at byte {offset}, expected some behind the header of {HEADER}"
        )));
    }
    match offset + size {
        end if end > length => Err(headed.truncated("EFI zboot payload", end)),
        end => Ok((compression, offset..end)),
    }
}
