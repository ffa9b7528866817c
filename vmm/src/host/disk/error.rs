//! Errors of disks.

use std::io;
use std::path::PathBuf;

use crate::error::{Class, Error};

/// A disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum DiskError {
    /// The disk's size is not a whole number of sectors.
    #[error(
        "disk {path:?} has {size} bytes, expected a multiple of {multiple} (truncate -s {rounded} makes it one)"
    )]
    Size { path: PathBuf, size: u64, multiple: u64, rounded: u64 },

    /// The image does not look raw, and no format was given.
    #[error(
        "disk {path:?} is a {format} image by {by}, expected a raw one ({hint}qemu-img convert -O raw converts it, format=raw uses its bytes unchanged)"
    )]
    Format { path: PathBuf, format: &'static str, by: &'static str, hint: &'static str },

    /// A qcow2 image is damaged, or uses an unsupported feature.
    #[error("disk {path:?} cannot be used as a qcow2 image (a raw one needs format=raw)")]
    Image { path: PathBuf, source: io::Error },

    /// An image has a backing file that cannot be used.
    #[error("disk {path:?} has a backing file, {name:?}, {why}")]
    Backing { path: PathBuf, name: String, why: String },

    /// The backing file of an image cannot be opened.
    #[error("disk {path:?} needs its backing file")]
    Below { path: PathBuf, source: Box<Error> },

    /// A raw disk has no backing file.
    #[error("disk {path:?} is raw, and backing=on is for qcow2 images (format=qcow2)")]
    RawBacking { path: PathBuf },

    /// The file system or block device does not support direct I/O.
    #[error("disk {path:?} does not support direct I/O (remove direct=on)")]
    Direct { path: PathBuf, source: io::Error },

    /// A disk was opened for writing, but cannot be written to.
    #[error("disk {path:?} is not writable: {why} (to use it read-only, give {path:?},readonly)")]
    ReadOnly { path: PathBuf, why: &'static str },

    /// This host uses the disk otherwise.
    #[error("disk {path:?} is in use: {user} (lock=off uses it anyway)")]
    InUse { path: PathBuf, user: String },

    /// Another machine uses the image.
    #[error(
        "another machine {who} disk {path:?}{process}: a disk has one writer or, all with readonly, any number of readers (lock=off disables this check)"
    )]
    Locked { path: PathBuf, who: &'static str, process: String },

    /// An image is used twice, and at least one use is writable, so the guest would damage it.
    #[error(
        "disks {first:?} and {second:?} are the same file, or parts of each other: only possible with readonly on both"
    )]
    Twice { first: PathBuf, second: PathBuf },
}

impl DiskError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        Class::Usage
    }
}
