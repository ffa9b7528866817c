//! The kernel file in a form that QEMU can start.
//!
//! QEMU loads ELF files at the physical addresses in their headers. A static-pie has no fixed
//! addresses, and a raw binary must not be mistaken for another format. For these QEMU gets a copy
//! in memory whose ELF headers give the addresses of the segments. QEMU does not decompress: for a
//! compressed kernel it gets the decompressed one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::Error;
use crate::loader::{Format, Kernel};

/// Sizes in bytes of an ELF64 header and of a program header.
const EHDR: u16 = 64;
const PHDR: u16 = 56;

/// A file for QEMU's `-kernel`.
pub(super) enum Startable<'a> {
    /// The user's file.
    Original(&'a Path),
    /// A copy in memory, and its path in a child that inherits it.
    Copy(OwnedFd, PathBuf),
}

impl Startable<'_> {
    /// Chooses the user's file or makes a copy.
    pub(super) fn new(kernel: &Kernel) -> Result<Startable<'_>, Error> {
        let copy = match (kernel.format(), kernel.compression()) {
            (Format::Elf | Format::Image, None) => return Ok(Startable::Original(kernel.path())),
            (Format::Elf | Format::Image, Some(_)) => kernel.file().try_clone(),
            (Format::StaticPie | Format::Raw, _) => copy(kernel),
        };
        let copy = copy.map_err(Error::host("copy the kernel for QEMU"))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        Ok(Startable::Copy(copy.into(), path))
    }

    /// Returns the path for QEMU.
    pub(super) fn path(&self) -> &Path {
        match self {
            Startable::Original(path) => path,
            Startable::Copy(_, path) => path,
        }
    }
}

/// Writes the kernel's segments to an ELF file, at their addresses.
fn copy(kernel: &Kernel) -> io::Result<File> {
    let fd = memfd_create(c"kernel", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(&headers(kernel))?;
    for segment in kernel.segments() {
        let mut buffer = vec![0; usize::try_from(segment.file_size).map_err(io::Error::other)?];
        kernel.file().read_exact_at(&mut buffer, segment.offset)?;
        file.write_all(&buffer)?;
    }
    Ok(file)
}

/// Returns an ELF64 header and the program headers (gABI): PT_LOAD, RWX, virtual addresses equal to
/// the physical ones.
fn headers(kernel: &Kernel) -> Vec<u8> {
    let count = u16::try_from(kernel.segments().len()).unwrap_or(u16::MAX);
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut half =
        |values: &[u16]| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    // ET_EXEC, EM_RISCV, version 1
    half(&[2, 243, 1, 0]);
    bytes.extend(
        [kernel.entry(), EHDR.into(), 0]
            .iter()
            .flat_map(|value| value.to_le_bytes()),
    );
    let mut half =
        |values: &[u16]| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    half(&[0, 0, EHDR, PHDR, count, 0, 0, 0]);
    let mut offset = u64::from(EHDR) + u64::from(PHDR) * u64::from(count);
    for segment in kernel.segments() {
        let (load, rwx, align) = (1_u64, 7_u64, 1_u64);
        let words = [
            load | rwx << 32,
            offset,
            segment.address,
            segment.address,
            segment.file_size,
            segment.memory_size,
            align,
        ];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        offset += segment.file_size;
    }
    bytes
}
