//! A disk's image on the host. Only this module knows image formats; the device above it reads and
//! writes bytes at offsets.

use std::fs::File;
use std::io;

use crate::virtio::chain::{Readable, Writable};

mod geometry;
#[cfg(feature = "qcow2")]
mod qcow2;
mod raw;

pub(super) use self::geometry::Geometry;
#[cfg(feature = "qcow2")]
use self::qcow2::Qcow2;
#[cfg(feature = "qcow2")]
pub use self::qcow2::{Backing, Layer};
use self::raw::Raw;
pub use self::raw::granularity;

/// A disk's content on the host.
pub struct Image(Format);

enum Format {
    Raw(Raw),
    #[cfg(feature = "qcow2")]
    Qcow2(Box<Qcow2>),
}

/// Calls the same method for each format.
macro_rules! each {
    ($image:expr, $it:ident => $what:expr) => {
        match $image {
            Format::Raw($it) => $what,
            #[cfg(feature = "qcow2")]
            Format::Qcow2($it) => $what,
        }
    };
}

impl Image {
    /// A raw image: the bytes of `file` are the disk. A file opened with O_DIRECT is read and
    /// written directly.
    pub fn raw(file: File) -> Image {
        Image(Format::Raw(Raw::new(file)))
    }

    /// A qcow2 image. `readonly` says how `file` was opened. `backing` are its backing file, the
    /// backing file of that, and so on. Metadata is cached, so nothing else may write to the files
    /// meanwhile.
    ///
    /// # Errors
    /// A file cannot be read; it is not a qcow2 image; it is not supported: encrypted, damaged, or
    /// with data in another file; or its backing file is missing.
    #[cfg(feature = "qcow2")]
    pub fn qcow2(file: File, readonly: bool, backing: Vec<Layer>) -> io::Result<Image> {
        let image = Qcow2::open(file, readonly, backing)?;
        Ok(Image(Format::Qcow2(Box::new(image))))
    }

    /// Returns what the qcow2 image in `file` says about its backing file.
    ///
    /// # Errors
    /// The file cannot be read; it is not a qcow2 image; or it is not supported.
    #[cfg(feature = "qcow2")]
    pub fn backing(file: &File) -> io::Result<Option<Backing>> {
        qcow2::backing(file.try_clone()?)
    }

    /// The disk's size in bytes.
    ///
    /// # Errors
    /// The size of the file cannot be read.
    pub fn size(&self) -> io::Result<u64> {
        each!(&self.0, it => it.size())
    }

    #[cfg(test)]
    fn as_raw(&mut self) -> &mut Raw {
        match &mut self.0 {
            Format::Raw(raw) => raw,
            #[cfg(feature = "qcow2")]
            Format::Qcow2(_) => unreachable!("tests of raw images"),
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        each!(&self.0, it => it.geometry())
    }

    /// Fills all of `out` from byte `offset` on.
    pub(super) fn read(&mut self, out: &mut Writable, offset: u64) -> io::Result<()> {
        each!(&mut self.0, it => it.read(out, offset))
    }

    /// Writes all of `data` at byte `offset`.
    pub(super) fn write(&mut self, data: &mut Readable, offset: u64) -> io::Result<()> {
        each!(&mut self.0, it => it.write(data, offset))
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        each!(&mut self.0, it => it.sync())
    }

    /// Discards `len` bytes from `offset` on. This is a hint: a host that does not support it does
    /// nothing.
    pub(super) fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        each!(&mut self.0, it => it.discard(offset, len))
    }

    /// Zeroes `len` bytes from `offset` on; with `unmap` their space may be deallocated.
    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        each!(&mut self.0, it => it.zero(offset, len, unmap))
    }
}
