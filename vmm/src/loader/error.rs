//! Kernels that cannot be started.

use std::path::PathBuf;

use crate::error::{Class, Error};

/// Kernels that cannot be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum KernelError {
    /// The kernel file is recognised, and is not one that a RISC-V guest can start from.
    #[error("kernel {path:?} is {found}: {advice}")]
    Format { path: PathBuf, found: String, advice: &'static str },

    /// The kernel file ends before what its own headers promise.
    #[error(
        "kernel {path:?} is truncated: its {part} ends at byte {end}, the file has {length} bytes"
    )]
    Truncated { path: PathBuf, part: String, end: u64, length: u64 },

    /// The kernel is compressed, and unpacked it is more than the guest's RAM.
    #[error(
        "kernel {path:?}: unpacked from {packing} it has more than {memory}, all of the guest's RAM: raise --memory"
    )]
    Unpacked { path: PathBuf, packing: &'static str, memory: String },

    /// The kernel is compressed, and what was in it is wrong.
    #[error("unpacked from {packing}, {length} bytes")]
    InUnpacked { packing: &'static str, length: u64, source: Box<Error> },

    /// A part of the kernel has its place outside RAM.
    #[error(
        "kernel {path:?}: its {part} belongs at {start:#x}..{end:#x}, outside RAM ({ram_start:#x}..{ram_end:#x}, --memory {memory}): {advice}"
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

    /// The kernel fits into RAM, what must lie beside it does not.
    #[error(
        "{what} needs {need} bytes beside the kernel, the largest gap in RAM below {below:#x} has {room}: {advice}"
    )]
    NoRoom { what: String, need: u64, room: u64, below: u64, advice: String },
}

impl KernelError {
    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        match self {
            KernelError::InUnpacked { source, .. } => source.class(),
            _ => Class::Usage,
        }
    }
}
