//! From a kernel file to a guest that can start: detect the format, choose addresses for the kernel
//! and its companions, copy them.
//!
//! ```text
//!   file ── format ──┬─────────────────────────────── elf, image ──▶ segments ── place ──▶ load
//!   (by content)     └─ zboot ─ unpack (gzip, zstd) ──────┘ once
//! ```
//! [`Kernel::open`] checks everything that the file says against the file's length. [`place`] is
//! pure arithmetic and runs before any guest starts. [`load`] only copies.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::{self, KernelFormat};
use crate::error::Error;
use crate::host::files::{self, FileError, Stamp};
use crate::layout::{self, FDT_MAX_SIZE, KERNEL_BASE, LOW_END, MAX_MEMORY};
use crate::size;

mod elf;
mod error;
mod format;
mod header;
mod image;
mod unpack;
mod zboot;

pub use error::KernelError;

use self::format::Found;

/// Alignment in bytes of the initrd and the device tree: one page, because Linux frees the initrd
/// in pages.
const PAGE: u64 = 4096;

/// A kernel file whose headers have been checked against its length.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    /// The user's file, or the unpacked kernel in memory.
    file: File,
    /// Detects writes since it was opened.
    stamp: Stamp,
    compression: Option<&'static str>,
    format: Format,
    entry: u64,
    segments: Vec<Segment>,
}

/// The format of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF file with fixed addresses (ET_EXEC).
    Elf,
    /// A position-independent ELF file (ET_DYN) that relocates itself. The addresses kept here are
    /// final.
    StaticPie,
    /// A flat Linux Image.
    Image,
    /// Bytes without a header, if the user says so. They go to [`layout::KERNEL_BASE`].
    Raw,
}

/// A part of the kernel file and its place in guest memory. Memory beyond the file's part is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its offset in the file, in bytes.
    pub offset: u64,
    /// Its size in the file, in bytes.
    pub file_size: u64,
    /// Its guest physical address.
    pub address: u64,
    /// Its size in memory, in bytes, at least `file_size`. `address + memory_size` does not
    /// overflow.
    pub memory_size: u64,
}

impl Segment {
    /// Returns its guest physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.memory_size)
    }
}

/// An initial RAM disk. Its content is not checked.
#[derive(Debug)]
pub struct Initrd {
    /// The path as given by the user.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Its length in bytes, not 0.
    pub size: u64,
    /// Detects writes since it was opened.
    stamp: Stamp,
}

impl Initrd {
    /// Opens an initrd.
    ///
    /// # Errors
    /// The file cannot be read, is not a regular file, or is empty.
    pub fn open(path: &Path) -> Result<Initrd, Error> {
        let (file, size) = files::open_input("initrd", path)?;
        Ok(Initrd { path: path.into(), stamp: stamp("initrd", path, &file)?, file, size })
    }
}

/// Where everything lies in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Guest physical address of the kernel's first instruction.
    pub entry: u64,
    /// Guest physical addresses of the initrd.
    pub initrd: Option<Range<u64>>,
    /// Guest physical address of the device tree: page-aligned, with space for [`FDT_MAX_SIZE`]
    /// bytes.
    pub fdt: u64,
}

impl Kernel {
    /// Opens a kernel, detects its format by its content, decompresses it if necessary, to at most
    /// `memory` bytes, and checks its headers.
    pub fn open(option: &config::Kernel, memory: u64) -> Result<Kernel, Error> {
        let path = option.path.as_path();
        let (file, length) = files::open_input("kernel", path)?;
        if option.format == KernelFormat::Raw {
            return Kernel::raw(path, file, length);
        }
        let found = format::recognise(path, &file, length)?;
        Kernel::unpack(option, file, length, found, memory)
    }

    /// Decompresses the file if necessary, and checks its headers.
    fn unpack(
        option: &config::Kernel,
        file: File,
        length: u64,
        found: Found,
        memory: u64,
    ) -> Result<Kernel, Error> {
        let path = option.path.as_path();
        let (compression, section) = match found {
            Found::Elf | Found::Image | Found::Other => {
                return Kernel::parse(option, file, length, found);
            }
            Found::Packed(compression) => (compression, 0..length),
            Found::Zboot => zboot::payload(path, &file, length)?,
        };
        let (file, length) = unpack::unpack(path, &file, section, compression, memory)?;
        let inside = || {
            let found = format::recognise(path, &file, length)?;
            Kernel::parse(option, file, length, found)
        };
        match inside() {
            Ok(kernel) => Ok(Kernel { compression: Some(compression.name()), ..kernel }),
            Err(error) => Err(Error::from(KernelError::InUnpacked {
                compression: compression.name(),
                length,
                source: Box::new(error),
            })),
        }
    }

    /// Opens firmware for S-mode: a binary without a header, which is loaded at
    /// [`layout::KERNEL_BASE`], or what [`Kernel::open`] accepts.
    ///
    /// # Errors
    /// It cannot be read, or is of a known format that is not one of these.
    pub fn firmware(path: &Path, memory: u64) -> Result<Kernel, Error> {
        let (file, length) = files::open_input("firmware", path)?;
        match format::recognise(path, &file, length) {
            Ok(Found::Other) => Kernel::raw(path, file, length),
            Ok(found) => {
                let option = config::Kernel { path: path.into(), format: KernelFormat::Auto };
                Kernel::unpack(&option, file, length, found, memory)
            }
            Err(Error::Kernel(KernelError::Format { found, .. })) => {
                let problem = format!(
                    "it is {found}, expected a binary that runs in S-mode at {KERNEL_BASE:#x}, or an ELF of it, such as U-Boot's qemu-riscv64_smode"
                );
                Err(FileError::content("firmware", path, problem))
            }
            Err(error) => Err(error),
        }
    }

    fn parse(
        option: &config::Kernel,
        file: File,
        length: u64,
        found: Found,
    ) -> Result<Kernel, Error> {
        let path = option.path.as_path();
        let wrong = |found: &str, advice| {
            Error::from(KernelError::Format { path: path.into(), found: found.into(), advice })
        };
        let (format, entry, segments) = match (found, option.format) {
            (Found::Elf, KernelFormat::Image) => {
                return Err(wrong("an ELF", "format=image was asked for"));
            }
            (Found::Image, KernelFormat::Elf) => {
                return Err(wrong("a flat Image", "format=elf was asked for"));
            }
            (Found::Elf, _) => elf::read(path, &file, length)?,
            (Found::Image, _) => image::read(path, &file, length)?,
            (Found::Other, _) => return Err(wrong("of an unknown format", format::UNKNOWN)),
            (Found::Packed(_) | Found::Zboot, _) => {
                let advice = "only one layer of compression is supported, remove the outer one";
                return Err(wrong("compressed twice", advice));
            }
        };
        Ok(Kernel {
            path: path.into(),
            stamp: stamp("kernel", path, &file)?,
            file,
            compression: None,
            format,
            entry,
            segments,
        })
    }

    /// Loads the whole file at the usual address. The entry point is its first byte.
    fn raw(path: &Path, file: File, length: u64) -> Result<Kernel, Error> {
        let segment =
            Segment { offset: 0, file_size: length, address: KERNEL_BASE, memory_size: length };
        Ok(Kernel {
            path: path.into(),
            stamp: stamp("kernel", path, &file)?,
            file,
            compression: None,
            format: Format::Raw,
            entry: KERNEL_BASE,
            segments: vec![segment],
        })
    }

    /// Returns how the user's file is compressed, if it is: "gzip" or "zstd".
    pub fn compression(&self) -> Option<&'static str> {
        self.compression
    }

    /// Returns the path as given by the user.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file that holds the segments: the user's file, or the unpacked kernel in
    /// memory.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the kernel's format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the guest physical address of its first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Returns its segments in ascending order of address. They do not overlap.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Chooses addresses for everything in `memory` bytes of RAM, or returns what does not fit.
///
/// The device tree and the initrd (of `initrd_len` bytes) go as high as possible below 4 GiB, away
/// from the memory behind the BSS that the kernel's early code uses.
pub fn place(kernel: &Kernel, initrd_len: Option<u64>, memory: u64) -> Result<Placement, Error> {
    let ram = layout::ram(memory);
    for (index, segment) in kernel.segments.iter().enumerate() {
        expect_in_ram(kernel, index, &segment.range(), &ram, memory)?;
    }
    let end = ram.end.min(LOW_END);
    // Linux before 6.4 cannot use RAM below its own image.
    let start = if kernel.format == Format::Image {
        kernel.entry
    } else {
        ram.start
    };
    let mut taken: Vec<Range<u64>> = kernel.segments.iter().map(Segment::range).collect();
    let mut find = |what: &str, need: u64| {
        let gaps = || gaps(&taken, start..end);
        let start = gaps()
            .filter_map(|gap| highest(&gap, need))
            .max()
            .ok_or_else(|| KernelError::NoRoom {
                what: what.into(),
                need,
                room: gaps().map(|gap| gap.end - gap.start).max().unwrap_or(0),
                below: end,
                advice: if end < LOW_END && need <= LOW_END - ram.start {
                    format!("raise --memory (now {})", size::show(memory))
                } else {
                    "more RAM would be above that, so use a smaller one".into()
                },
            })?;
        let place = start..start.saturating_add(need);
        taken.push(place.clone());
        taken.sort_by_key(|range| range.start);
        Ok::<_, KernelError>(place)
    };
    let fdt = find("the device tree", FDT_MAX_SIZE)?.start;
    let initrd = initrd_len
        .map(|need| find("the initrd", need))
        .transpose()?;
    Ok(Placement { entry: kernel.entry, initrd, fdt })
}

fn expect_in_ram(
    kernel: &Kernel,
    index: usize,
    range: &Range<u64>,
    ram: &Range<u64>,
    memory: u64,
) -> Result<(), Error> {
    if ram.start <= range.start && range.end <= ram.end {
        return Ok(());
    }
    let advice = match kernel.format {
        _ if range.end > layout::ram(MAX_MEMORY).end => "no board has RAM there",
        _ if ram.start <= range.start && range.start < ram.end => "raise --memory",
        Format::Elf => {
            "link it at 0x80200000 or above; for Linux, use arch/riscv/boot/Image, not vmlinux"
        }
        Format::StaticPie | Format::Image | Format::Raw => "raise --memory",
    };
    Err(Error::from(KernelError::OutsideRam {
        path: kernel.path.clone(),
        part: match kernel.format {
            Format::Image => "image (BSS included)".into(),
            Format::Raw => "content".into(),
            Format::Elf | Format::StaticPie => format!("loaded segment {index}"),
        },
        start: range.start,
        end: range.end,
        ram_start: ram.start,
        ram_end: ram.end,
        memory: size::show(memory),
        advice,
    }))
}

/// Returns the gaps in `within` between the `taken` ranges, which are in ascending order and do not
/// overlap.
fn gaps(taken: &[Range<u64>], within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = std::iter::once(within.start).chain(taken.iter().map(|range| range.end));
    let ends = taken.iter().map(|range| range.start).chain([within.end]);
    starts
        .zip(ends)
        .map(move |(start, end)| start.max(within.start)..end.min(within.end))
        .filter(|gap| gap.start < gap.end)
}

/// Returns the highest page-aligned address in `gap` with space for `need` bytes.
fn highest(gap: &Range<u64>, need: u64) -> Option<u64> {
    let start = gap.end.checked_sub(need)? & !(PAGE - 1);
    (start >= gap.start).then_some(start)
}

fn stamp(what: &'static str, path: &Path, file: &File) -> Result<Stamp, Error> {
    Stamp::of(file).map_err(FileError::read(what, path))
}

/// Copies the kernel and the initrd to guest memory. BSS needs nothing: new memory is zero.
///
/// A reboot copies them again. If a file was written to since it was opened and checked, it is
/// rejected, instead of starting a mixture of old and new.
///
/// # Errors
/// A file cannot be read, or was written to since it was opened.
pub fn load(
    kernel: &Kernel,
    initrd: Option<&Initrd>,
    placement: &Placement,
    memory: &GuestMemoryMmap,
) -> Result<(), Error> {
    let loaded = match kernel.format {
        // riscv64 only, because linux-loader supports flat Images of its build target only.
        #[cfg(target_arch = "riscv64")]
        Format::Image => image::load(&kernel.file, memory),
        _ => kernel.segments.iter().try_for_each(|segment| {
            copy(
                &kernel.file,
                segment.offset,
                segment.file_size,
                memory,
                segment.address,
            )
        }),
    };
    expect_unchanged("kernel", &kernel.path, &kernel.file, kernel.stamp)?;
    loaded.map_err(FileError::read("kernel", &kernel.path))?;
    if let (Some(initrd), Some(place)) = (initrd, &placement.initrd) {
        copy(
            &initrd.file,
            0,
            place.end - place.start,
            memory,
            place.start,
        )
        .map_err(FileError::read("initrd", &initrd.path))?;
        expect_unchanged("initrd", &initrd.path, &initrd.file, initrd.stamp)?;
    }
    Ok(())
}

/// Rejects a file that was written to. Call it after the copy, to catch a write during the copy,
/// too.
fn expect_unchanged(
    what: &'static str,
    path: &Path,
    file: &File,
    opened: Stamp,
) -> Result<(), Error> {
    match stamp(what, path, file)? == opened {
        true => Ok(()),
        false => Err(Error::from(FileError::Changed { what, path: path.into() })),
    }
}

/// Copies `length` bytes from `offset` of a file straight into guest memory.
fn copy(
    mut file: &File,
    offset: u64,
    length: u64,
    memory: &GuestMemoryMmap,
    address: u64,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut done = 0;
    while done < length {
        // read(2) transfers at most 2 GiB, so a large initrd takes several calls.
        let count = usize::try_from(length - done).unwrap_or(usize::MAX);
        match memory.read_volatile_from(
            GuestAddress(address.saturating_add(done)),
            &mut file,
            count,
        ) {
            // The file is shorter than when it was opened.
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it shrank since it was opened",
                ));
            }
            Ok(count) => done += count as u64,
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "loader/loader_test.rs"]
mod tests;
