//! The flat Linux Image: a 64-byte header, then the kernel as it lies in memory, without BSS.
//!
//! ```text
//! 0x00 code0, code1   0x08 text_offset   0x10 image_size   0x18 flags
//! 0x20 version        0x30 "RISCV\0\0\0"   0x38 "RSC\x05"
//! 0x3c offset of the PE header, if it is an EFI program too (code0 is then "MZ")
//! ```
//! All little-endian; see Linux Documentation/arch/riscv/boot-image-header.rst.

use std::fs::File;
#[cfg(target_arch = "riscv64")]
use std::io;
use std::path::Path;

#[cfg(target_arch = "riscv64")]
use linux_loader::loader::{KernelLoader, PE};

use object::pe::{ImageDosHeader, ImageNtHeaders64};
use object::read::ReadCache;
use object::read::pe::ImageNtHeaders;
#[cfg(target_arch = "riscv64")]
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::header::Headed;
use super::{Format, Segment};
use crate::error::Error;
use crate::layout::{KERNEL_ALIGN, RAM_BASE};

/// Offset in bytes of the magic number that replaced "RISCV\0\0\0" in version 0.2 of the header.
pub(super) const MAGIC2_OFFSET: usize = 0x38;
/// That magic number.
pub(super) const MAGIC2: &[u8] = b"RSC\x05";

/// Size in bytes of the header.
const HEADER: usize = 64;
/// Bit 0 of flags: the kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1;

/// The header fields needed for loading.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    text_offset: u64,
    image_size: u64,
    flags: u64,
    version: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Header> {
        let u64_at = |offset: usize| Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?));
        Some(Header {
            text_offset: u64_at(0x08)?,
            image_size: u64_at(0x10)?,
            flags: u64_at(0x18)?,
            version: u32::from_le_bytes(*bytes.get(0x20..)?.first_chunk()?),
        })
    }

    /// Returns the single segment of a file of `length` bytes, or what is wrong.
    fn segment(&self, length: u64) -> Result<Segment, String> {
        let (major, minor) = (self.version >> 16, self.version & 0xffff);
        if major != 0 {
            return Err(format!(
                "its Image header has version {major}.{minor}, known is 0.x"
            ));
        }
        if self.flags & FLAG_BIG_ENDIAN != 0 {
            return Err(format!(
                "it is big-endian (flags {:#x}), expected little-endian",
                self.flags
            ));
        }
        if self.image_size == 0 {
            return Err(
                "its Image header gives image_size 0, expected the size in memory (BSS included)"
                    .into(),
            );
        }
        if !self.text_offset.is_multiple_of(KERNEL_ALIGN) {
            return Err(format!(
                "its text_offset is {:#x}, expected a multiple of {KERNEL_ALIGN:#x}",
                self.text_offset
            ));
        }
        // image_size includes BSS, so the file is shorter, unless something such as a signature was
        // appended.
        let memory_size = self.image_size.max(length);
        let address = RAM_BASE.checked_add(self.text_offset);
        match address.filter(|address| address.checked_add(memory_size).is_some()) {
            Some(address) => Ok(Segment { offset: 0, file_size: length, address, memory_size }),
            None => Err(format!(
                "text_offset {:#x} + image_size {:#x} is beyond 2^64",
                self.text_offset, self.image_size
            )),
        }
    }
}

/// Reads the header of an Image of `length` bytes.
pub(super) fn read(
    path: &Path,
    file: &File,
    length: u64,
) -> Result<(Format, u64, Vec<Segment>), Error> {
    let headed = Headed { path, file, length };
    let bytes = headed.read::<HEADER>("Image header")?;
    let header = Header::parse(&bytes)
        .ok_or_else(|| headed.wrong("its Image header cannot be read".into()))?;
    let segment = header
        .segment(length)
        .map_err(|problem| headed.wrong(problem))?;
    if bytes.starts_with(b"MZ") {
        let end = efi_end(file)
            .map_err(|error| headed.wrong(format!("its EFI header cannot be read: {error}")))?;
        if end > length {
            return Err(headed.truncated("last EFI section", end));
        }
    }
    Ok((Format::Image, segment.address, vec![segment]))
}

/// Loads an Image with linux-loader, which reads the header again, and the file with a single
/// read(2).
///
/// # Errors
/// The file cannot be read, or is no longer an Image.
#[cfg(target_arch = "riscv64")]
pub(super) fn load(mut file: &File, memory: &GuestMemoryMmap) -> io::Result<()> {
    match PE::load(memory, Some(GuestAddress(RAM_BASE)), &mut file, None) {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Returns the size in bytes of an EFI program. The Image header has no file size, so this is how a
/// truncated download is detected.
fn efi_end(file: &File) -> object::read::Result<u64> {
    let cache = ReadCache::new(file);
    let mut offset = ImageDosHeader::parse(&cache)?.nt_headers_offset().into();
    let (headers, _) = ImageNtHeaders64::parse(&cache, &mut offset)?;
    Ok(headers.sections(&cache, offset)?.max_section_file_offset())
}
