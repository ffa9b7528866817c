//! Errors of generated device trees.

use crate::error::Class;

/// A device tree cannot be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum FdtError {
    /// The device tree cannot be generated.
    #[error("cannot build the device tree")]
    Build(#[source] vm_fdt::Error),

    /// The device tree exceeds the space reserved for it.
    #[error("the device tree has {size} bytes, at most {limit} fit")]
    Size { size: usize, limit: u64 },
}

impl FdtError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        Class::Own
    }
}
