//! Disks that cannot be used.

use std::io;
use std::path::PathBuf;

use crate::error::Class;

/// Disks that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum DiskError {
    /// A disk whose length is no whole number of sectors.
    #[error(
        "disk {path:?} has {size} bytes, expected a multiple of {multiple} (truncate -s {rounded} makes it one)"
    )]
    Size { path: PathBuf, size: u64, multiple: u64, rounded: u64 },

    /// An image that does not look raw, and nothing was said of its format.
    #[error(
        "disk {path:?} is a {format} image by {by}, expected a raw one ({hint}qemu-img convert -O raw makes a raw one, format=raw takes its bytes as they are)"
    )]
    Format { path: PathBuf, format: &'static str, by: &'static str, hint: &'static str },

    /// A qcow2 image is damaged, or has what is not taken from one.
    #[error("disk {path:?} cannot be used as a qcow2 image (a raw one needs format=raw)")]
    Image { path: PathBuf, source: io::Error },

    /// The file system or block device has no direct I/O.
    #[error("disk {path:?} does not take direct I/O (leave direct=on out)")]
    Direct { path: PathBuf, source: io::Error },

    /// A disk could be opened for writing, and still takes no writes.
    #[error("disk {path:?} takes no writes: {why} (to use it unwritten, give {path:?},readonly)")]
    ReadOnly { path: PathBuf, why: &'static str },

    /// This host uses the disk for something else.
    #[error("disk {path:?} is in use: {user} (lock=off uses it all the same)")]
    InUse { path: PathBuf, user: String },

    /// Another machine uses the image.
    #[error(
        "another machine {who} disk {path:?}{process}: it has one writer or, all with readonly, any number of readers (lock=off does not ask)"
    )]
    Locked { path: PathBuf, who: &'static str, process: String },

    /// One image twice, at least once writable: the guest would destroy it.
    #[error(
        "disks {first:?} and {second:?} are the same file, or parts of each other: only possible with readonly on both"
    )]
    Twice { first: PathBuf, second: PathBuf },
}

impl DiskError {
    /// Whose fault it is.
    pub(crate) fn class(&self) -> Class {
        Class::Usage
    }
}
