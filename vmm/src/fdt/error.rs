//! Device trees that cannot be built.

use crate::error::Class;

/// Device trees that cannot be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum FdtError {
    /// The device tree cannot be written.
    #[error("cannot build the device tree")]
    Build(#[source] vm_fdt::Error),

    /// The device tree is larger than the room that every placement leaves for it.
    #[error("the device tree has {size} bytes, at most {limit} have room")]
    Size { size: usize, limit: u64 },
}

impl FdtError {
    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        Class::Own
    }
}
