//! ELF kernels: bare-metal guests, loaded at the physical addresses of their PT_LOAD segments.
//!
//! A static-pie (ET_DYN) is position-independent and goes to [`KERNEL_BASE`]. Its start-up code
//! applies its own relocations. Applying them here as well would be harmless for RELA, but wrong
//! for code that adds to the addresses in place.

use std::fs::File;
use std::path::Path;

use object::elf::{ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_INTERP, PT_LOAD, ProgramHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, LittleEndian as LE};

use super::error::KernelError;
use super::{Format, PAGE, Segment};
use crate::error::Error;
use crate::host::files::FileError;
use crate::layout::KERNEL_BASE;

/// Size in bytes of an ELF64 header.
const HEADER: u64 = size_of::<FileHeader64<LE>>() as u64;

/// The result of [`read`]: format, guest physical address of the entry point, segments in ascending
/// order.
type Parts = (Format, u64, Vec<Segment>);

/// Reads the headers of an ELF file of `length` bytes.
pub(super) fn read(path: &Path, file: &File, length: u64) -> Result<Parts, Error> {
    let wrong = |problem: String| FileError::content("kernel", path, problem);
    let fits = |part: String, end: Option<u64>| match end {
        Some(end) if end <= length => Ok(()),
        Some(end) => Err(Error::from(KernelError::Truncated {
            path: path.into(),
            part,
            end,
            length,
        })),
        None => Err(wrong(format!("its {part} ends beyond 2^64"))),
    };

    fits("ELF header".into(), Some(HEADER))?;
    let cache = ReadCache::new(file);
    let header = FileHeader64::<LE>::parse(&cache).map_err(|error| wrong(error.to_string()))?;
    let table = u64::from(header.e_phnum(LE)) * size_of::<ProgramHeader64<LE>>() as u64;
    fits(
        "program header table".into(),
        header.e_phoff(LE).checked_add(table),
    )?;
    let programs = header
        .program_headers(LE, &cache)
        .map_err(|error| wrong(error.to_string()))?;

    let format = match header.e_type(LE) {
        _ if programs
            .iter()
            .any(|program| program.p_type(LE) == PT_INTERP) =>
        {
            return Err(wrong(
                "it is a dynamically linked program, expected a static one".into(),
            ));
        }
        ET_EXEC => Format::Elf,
        ET_DYN => Format::StaticPie,
        other => {
            let what = "expected an executable (ET_EXEC, or a static-pie ET_DYN)";
            return Err(wrong(format!("its ELF type is {}, {what}", other.0)));
        }
    };

    let loaded = || {
        programs
            .iter()
            .filter(|program| program.p_type(LE) == PT_LOAD && program.p_memsz(LE) > 0)
    };
    let shift = match format {
        Format::StaticPie => {
            shift_to_base(loaded()).ok_or_else(|| wrong("its segments lie too far apart".into()))?
        }
        Format::Elf | Format::Image | Format::Raw => 0,
    };

    let mut segments = Vec::new();
    let mut entry = None;
    for (index, program) in loaded().enumerate() {
        let segment = Segment {
            offset: program.p_offset(LE),
            file_size: program.p_filesz(LE),
            address: program.p_paddr(LE).wrapping_add(shift),
            memory_size: program.p_memsz(LE),
        };
        fits(
            format!("loaded segment {index}"),
            segment.offset.checked_add(segment.file_size),
        )?;
        if segment.file_size > segment.memory_size {
            let (file, memory) = (segment.file_size, segment.memory_size);
            return Err(wrong(format!(
                "loaded segment {index} has {file} bytes in the file, only {memory} in memory"
            )));
        }
        if segment.address.checked_add(segment.memory_size).is_none() {
            return Err(wrong(format!(
                "loaded segment {index} at {:#x} ends beyond 2^64",
                segment.address
            )));
        }
        // The entry point is a virtual address (gABI, e_entry), but the guest starts with paging
        // disabled.
        let distance = header.e_entry(LE).wrapping_sub(program.p_vaddr(LE));
        if distance < segment.memory_size && program.p_flags(LE).0 & PF_X.0 != 0 {
            entry = Some(segment.address + distance);
        }
        segments.push(segment);
    }
    segments.sort_by_key(|segment| segment.address);
    if segments.is_empty() {
        return Err(wrong("it has no segment to load (PT_LOAD)".into()));
    }
    let mut neighbours = segments.iter().zip(segments.iter().skip(1));
    if let Some((_, second)) = neighbours.find(|(first, second)| first.range().end > second.address)
    {
        return Err(wrong(format!(
            "two of its segments overlap at {:#x}",
            second.address
        )));
    }
    let entry = entry.ok_or_else(|| {
        wrong(format!(
            "its entry point {:#x} lies in no executable segment",
            header.e_entry(LE)
        ))
    })?;
    Ok((format, entry, segments))
}

/// Returns the offset, modulo 2^64, that moves a position-independent file to [`KERNEL_BASE`] with
/// its alignment kept.
fn shift_to_base<'a>(
    loaded: impl Iterator<Item = &'a ProgramHeader64<LittleEndian>> + Clone,
) -> Option<u64> {
    let align = loaded
        .clone()
        .map(|program| program.p_align(LE))
        .max()?
        .max(PAGE);
    let lowest = loaded.map(|program| program.p_paddr(LE)).min()?;
    let base = KERNEL_BASE.checked_next_multiple_of(align)?;
    Some(base.wrapping_sub(lowest - lowest % align))
}
