//! From a kernel file to a guest that can start: recognise it, find a place for it and its companions, copy them.
//!
//! ```text
//!   file ── format ──┬─────────────────────────────── elf, image ──▶ segments ── place ──▶ load
//!   (by content)     └─ zboot ─ unpack (gzip, zstd) ──────┘ once
//! ```
//! [`Kernel::open`] believes nothing that the file says until it fits the file's length; [`place`] is pure arithmetic
//! and runs before any guest starts; [`load`] then has nothing left to decide.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::{self, KernelFormat};
use crate::error::Error;
use crate::files::{self, Stamp};
use crate::layout::{self, FDT_MAX_SIZE, KERNEL_BASE, LOW_END, MAX_MEMORY};
use crate::size;

mod elf;
mod format;
mod header;
mod image;
mod unpack;
mod zboot;

use self::format::Found;

/// Alignment in bytes of the initrd and the device tree: a page, as Linux frees the initrd page by page.
const PAGE: u64 = 4096;

/// A kernel file whose headers were checked against its length.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    /// The user's, or what was unpacked from it.
    file: File,
    /// When it was opened.
    stamp: Stamp,
    packing: Option<&'static str>,
    format: Format,
    entry: u64,
    segments: Vec<Segment>,
}

/// What kind of kernel a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF file with fixed addresses (ET_EXEC).
    Elf,
    /// A position-independent ELF file (ET_DYN) that relocates itself; its addresses here are those it is placed at.
    StaticPie,
    /// A flat Linux Image.
    Image,
    /// Bytes without any header, because the user said so; they go to [`layout::KERNEL_BASE`].
    Raw,
}

/// A piece of the kernel file and its place in guest memory; what the file does not fill is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes of it the file holds.
    pub file_size: u64,
    /// Its guest physical address.
    pub address: u64,
    /// How many bytes it takes in memory, at least `file_size`; `address + memory_size` does not overflow.
    pub memory_size: u64,
}

impl Segment {
    /// The guest physical addresses it takes.
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.memory_size)
    }
}

/// An initial RAM disk; what is in it is the guest's business.
#[derive(Debug)]
pub struct Initrd {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Its length in bytes, not 0.
    pub size: u64,
    /// When it was opened.
    stamp: Stamp,
}

impl Initrd {
    /// Opens it.
    ///
    /// # Errors
    /// It is not a file that can be read, or is empty.
    pub fn open(path: &Path) -> Result<Initrd, Error> {
        let (file, size) = files::open_input("initrd", path)?;
        Ok(Initrd {
            path: path.into(),
            stamp: stamp("initrd", path, &file)?,
            file,
            size,
        })
    }
}

/// Where everything lies in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Guest physical address of the kernel's first instruction.
    pub entry: u64,
    /// Guest physical addresses of the initrd.
    pub initrd: Option<Range<u64>>,
    /// Guest physical address of the device tree, page-aligned, with room for [`FDT_MAX_SIZE`] bytes.
    pub fdt: u64,
}

impl Kernel {
    /// Opens a kernel, recognises it by its content, unpacks it if it is compressed, to at most `memory` bytes, and checks
    /// its headers.
    pub fn open(option: &config::Kernel, memory: u64) -> Result<Kernel, Error> {
        let path = option.path.as_path();
        let (file, length) = files::open_input("kernel", path)?;
        if option.format == KernelFormat::Raw {
            return Kernel::raw(path, file, length);
        }
        let (packing, section) = match format::recognise(path, &file, length)? {
            found @ (Found::Elf | Found::Image) => {
                return Kernel::parse(option, file, length, found);
            }
            Found::Packed(packing) => (packing, 0..length),
            Found::Zboot => zboot::payload(path, &file, length)?,
        };
        let (file, length) = unpack::unpack(path, &file, section, packing, memory)?;
        let inside = || {
            let found = format::recognise(path, &file, length)?;
            Kernel::parse(option, file, length, found)
        };
        match inside() {
            Ok(kernel) => Ok(Kernel {
                packing: Some(packing.name()),
                ..kernel
            }),
            Err(error) => Err(Error::InUnpacked {
                packing: packing.name(),
                length,
                source: Box::new(error),
            }),
        }
    }

    fn parse(
        option: &config::Kernel,
        file: File,
        length: u64,
        found: Found,
    ) -> Result<Kernel, Error> {
        let path = option.path.as_path();
        let wrong = |found: &str, advice| Error::KernelFormat {
            path: path.into(),
            found: found.into(),
            advice,
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
            (Found::Packed(_) | Found::Zboot, _) => {
                let advice = "only one layer is unpacked, take off the outer one yourself";
                return Err(wrong("packed once more", advice));
            }
        };
        Ok(Kernel {
            path: path.into(),
            stamp: stamp("kernel", path, &file)?,
            file,
            packing: None,
            format,
            entry,
            segments,
        })
    }

    /// The whole file at the usual place, entered at its first byte.
    fn raw(path: &Path, file: File, length: u64) -> Result<Kernel, Error> {
        let segment = Segment {
            offset: 0,
            file_size: length,
            address: KERNEL_BASE,
            memory_size: length,
        };
        Ok(Kernel {
            path: path.into(),
            stamp: stamp("kernel", path, &file)?,
            file,
            packing: None,
            format: Format::Raw,
            entry: KERNEL_BASE,
            segments: vec![segment],
        })
    }

    /// How the file that the user gave is compressed, if it is: "gzip", "zstd".
    pub fn packing(&self) -> Option<&'static str> {
        self.packing
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file that the segments are read from: the user's, or one in memory that holds what was unpacked.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What kind of kernel it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Guest physical address of its first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Its pieces, in ascending order of address, apart from each other.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Finds a place for everything in `memory` bytes of RAM, or says what does not fit.
///
/// The device tree and the initrd (of `initrd_len` bytes) go as high as they can below 4 GiB, out of the way of what
/// the kernel's early code takes behind its BSS.
pub fn place(kernel: &Kernel, initrd_len: Option<u64>, memory: u64) -> Result<Placement, Error> {
    let ram = layout::ram(memory);
    for (index, segment) in kernel.segments.iter().enumerate() {
        expect_in_ram(kernel, index, &segment.range(), &ram, memory)?;
    }
    let end = ram.end.min(LOW_END);
    // Linux before 6.4 cannot reach RAM below itself.
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
            .ok_or_else(|| Error::NoRoom {
                what: what.into(),
                need,
                room: gaps().map(|gap| gap.end - gap.start).max().unwrap_or(0),
                below: end,
                advice: if end < LOW_END {
                    format!("raise --memory (now {})", size::show(memory))
                } else {
                    "more RAM would lie above that, so take less".into()
                },
            })?;
        let place = start..start.saturating_add(need);
        taken.push(place.clone());
        taken.sort_by_key(|range| range.start);
        Ok(place)
    };
    let fdt = find("the device tree", FDT_MAX_SIZE)?.start;
    let initrd = initrd_len
        .map(|need| find("the initrd", need))
        .transpose()?;
    Ok(Placement {
        entry: kernel.entry,
        initrd,
        fdt,
    })
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
            "link it at 0x80200000 or above; of Linux, take arch/riscv/boot/Image, not vmlinux"
        }
        Format::StaticPie | Format::Image | Format::Raw => "raise --memory",
    };
    Err(Error::KernelOutsideRam {
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
    })
}

/// What `taken` (ascending, apart from each other) leaves of `within`.
fn gaps(taken: &[Range<u64>], within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = std::iter::once(within.start).chain(taken.iter().map(|range| range.end));
    let ends = taken.iter().map(|range| range.start).chain([within.end]);
    starts
        .zip(ends)
        .map(move |(start, end)| start.max(within.start)..end.min(within.end))
        .filter(|gap| gap.start < gap.end)
}

/// The highest page-aligned start of `need` bytes in `gap`.
fn highest(gap: &Range<u64>, need: u64) -> Option<u64> {
    let start = gap.end.checked_sub(need)? & !(PAGE - 1);
    (start >= gap.start).then_some(start)
}

fn stamp(what: &'static str, path: &Path, file: &File) -> Result<Stamp, Error> {
    Stamp::of(file).map_err(|source| Error::Read {
        what,
        path: path.into(),
        source,
    })
}

/// Copies the kernel and the initrd to their places. BSS needs nothing: fresh memory is zero.
///
/// They are copied anew when the guest reboots. What was placed and checked at the start may then be
/// something else, so a file that was written to is refused rather than started half old, half new.
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
        // Only where there is KVM for it: linux-loader has flat Images of the machine that it is built for.
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
    loaded.map_err(|source| Error::Read {
        what: "kernel",
        path: kernel.path.clone(),
        source,
    })?;
    if let (Some(initrd), Some(place)) = (initrd, &placement.initrd) {
        copy(
            &initrd.file,
            0,
            place.end - place.start,
            memory,
            place.start,
        )
        .map_err(|source| Error::Read {
            what: "initrd",
            path: initrd.path.clone(),
            source,
        })?;
        expect_unchanged("initrd", &initrd.path, &initrd.file, initrd.stamp)?;
    }
    Ok(())
}

/// Looked at after the copy, so that a write during it is seen as well.
fn expect_unchanged(
    what: &'static str,
    path: &Path,
    file: &File,
    opened: Stamp,
) -> Result<(), Error> {
    match stamp(what, path, file)? == opened {
        true => Ok(()),
        false => Err(Error::FileChanged {
            what,
            path: path.into(),
        }),
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
        // One read(2) carries at most 2 GiB, so a large initrd takes several.
        let count = usize::try_from(length - done).unwrap_or(usize::MAX);
        match memory.read_volatile_from(
            GuestAddress(address.saturating_add(done)),
            &mut file,
            count,
        ) {
            // Both files had this length when they were opened.
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
