//! Errors of kernel files.

use std::path::PathBuf;

use crate::error::{Class, Error};

/// A kernel cannot be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum KernelError {
    /// The file's format is known, but a RISC-V guest cannot start it.
    #[error("kernel {path:?} is {found}: {advice}")]
    Format { path: PathBuf, found: String, advice: &'static str },

    /// The file ends before the part that its headers describe.
    #[error(
        "kernel {path:?} is truncated: its {part} ends at byte {end}, the file has {length} bytes"
    )]
    Truncated { path: PathBuf, part: String, end: u64, length: u64 },

    /// The decompressed kernel is larger than the guest's RAM.
    #[error(
        "kernel {path:?}: decompressed from {compression} it is larger than the guest's RAM, {memory}: raise --memory"
    )]
    Unpacked { path: PathBuf, compression: &'static str, memory: String },

    /// The decompressed kernel is invalid.
    #[error("decompressed from {compression}, {length} bytes")]
    InUnpacked { compression: &'static str, length: u64, source: Box<Error> },

    /// A part of the kernel must be loaded outside RAM.
    #[error(
        "kernel {path:?}: its {part} must be loaded at {start:#x}..{end:#x}, outside RAM ({ram_start:#x}..{ram_end:#x}, --memory {memory}): {advice}"
    )]
    OutsideRam {
        path: PathBuf,
        part: String,
        start: u64,
        end: u64,
        ram_start: u64,
        ram_end: u64,
        memory: String,
        advice: &'static str,
    },

    /// The kernel fits into RAM, but the initrd or the device tree does not.
    #[error(
        "{what} needs {need} bytes beside the kernel, the largest gap in RAM below {below:#x} has {room}: {advice}"
    )]
    NoRoom { what: String, need: u64, room: u64, below: u64, advice: String },
}

impl KernelError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            KernelError::InUnpacked { source, .. } => source.class(),
            _ => Class::Usage,
        }
    }
}
