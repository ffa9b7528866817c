//! What a disk is kept in, and the ways to it. Here alone formats differ: the device above knows bytes at offsets.

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
use self::raw::Raw;
pub use self::raw::granularity;

/// A disk's content on the host.
pub struct Image(Format);

enum Format {
    Raw(Raw),
    #[cfg(feature = "qcow2")]
    Qcow2(Box<Qcow2>),
}

/// The same of each format.
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
    /// The bytes of `file` as they are. One opened with O_DIRECT is read and written directly.
    pub fn raw(file: File) -> Image {
        Image(Format::Raw(Raw::new(file)))
    }

    /// The disk that the qcow2 image in `file` describes; `readonly` if `file` was opened so. Its metadata are cached, so
    /// nobody else may write to the file meanwhile.
    ///
    /// # Errors
    /// The file's, or it is no qcow2 image, or one that we do not take: encrypted, damaged, or with parts of it in other files.
    #[cfg(feature = "qcow2")]
    pub fn qcow2(file: File, readonly: bool) -> io::Result<Image> {
        let image = Qcow2::open(file, readonly)?;
        Ok(Image(Format::Qcow2(Box::new(image))))
    }

    /// The disk's size in bytes.
    ///
    /// # Errors
    /// The host cannot say.
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
    pub(super) fn sync(&self) -> io::Result<()> {
        each!(&self.0, it => it.sync())
    }

    /// `len` bytes from `offset` on are of no use any more. A hint: where the host cannot, nothing happens.
    pub(super) fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        each!(&mut self.0, it => it.discard(offset, len))
    }

    /// `len` bytes from `offset` on read as zeroes from now on; with `unmap` their space may be given back.
    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        each!(&mut self.0, it => it.zero(offset, len, unmap))
    }
}
