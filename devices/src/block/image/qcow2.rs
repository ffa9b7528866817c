//! qcow2 images, through the synchronous interface of the crate imago.
//!
//! ```text
//!   qcow2.rs    requests, in a thread of the image: a panic of imago ends only that
//!   header.rs   limits for what imago trusts     storage.rs   protects the header
//! ```
//!
//! An image may come from anywhere, so it does not choose which files of the host are opened: the
//! caller opens its backing files, or refuses them. A damaged image causes I/O errors in the guest.

mod header;
mod storage;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem;

use imago::file::File as Storage;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};
use rustix::fs::{OFlags, fcntl_getfl};

use self::header::Header;
use self::storage::Guarded;
use super::Geometry;
use crate::contain::{Contained, contain};
use crate::virtio::chain::{Readable, Writable};

pub use self::header::Backing;

type Opened = imago::qcow2::Qcow2<Guarded>;

/// Bytes copied at once between the image and the driver's buffers.
const COPIED: usize = 64 * 1024;

/// A backing file: the content of an image wherever the image has none of its own. It is only read.
#[derive(Debug)]
pub struct Layer {
    /// The open file.
    pub file: File,
    /// A qcow2 image, otherwise raw.
    pub qcow2: bool,
}

/// An open image.
pub(super) struct Qcow2 {
    image: Contained<FormatAccess<Guarded>>,
    size: u64,
    geometry: Geometry,
    /// Goes to the thread of the image with each request, and comes back with its answer.
    buffer: Vec<u8>,
}

impl Qcow2 {
    /// `backing` are its backing file, the backing file of that, and so on.
    pub(super) fn open(file: File, readonly: bool, backing: Vec<Layer>) -> io::Result<Qcow2> {
        let (image, cluster) = contain(move || {
            let mut below = None;
            for Layer { file, qcow2 } in backing.into_iter().rev() {
                below = Some(match qcow2 {
                    true => open(file, true, below.take())?.0,
                    false => {
                        let file = Guarded::plain(storage(file, true)?);
                        FormatAccess::new(Raw::open_image(file, false)?)
                    }
                });
            }
            open(file, readonly, below)
        })?;
        Ok(Qcow2 {
            size: image.size(),
            image: Contained::new(image),
            geometry: Geometry::of_clusters(cluster),
            buffer: Vec::new(),
        })
    }

    /// The size in the header. It does not change while the image is open.
    #[expect(clippy::unnecessary_wraps, reason = "another format asks the host")]
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn read(&mut self, out: &mut Writable, mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            let (mut buffer, len) = (self.take_buffer(), out.len());
            self.buffer = self.image.run(move |image| {
                image.read(part(&mut buffer, len), offset)?;
                Ok(buffer)
            })?;
            offset += out.write(part(&mut self.buffer, len)) as u64;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, data: &mut Readable, mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let (mut buffer, len) = (self.take_buffer(), data.len());
            let filled = part(&mut buffer, len);
            data.read(filled);
            let next = offset + filled.len() as u64;
            self.buffer = self.image.run(move |image| {
                image.write(&*part(&mut buffer, len), offset)?;
                Ok(buffer)
            })?;
            offset = next;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.image.run(|image| {
            image.flush()?;
            image.sync()
        })
    }

    pub(super) fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.image
            .run(move |image| match image.discard_to_any(offset, len) {
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
                done => done,
            })
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.image.run(move |image| {
            let zeroed = match unmap {
                true => image.discard_to_zero(offset, len),
                false => image.write_zeroes(offset, len),
            };
            match zeroed {
                // Version 2 has no zero clusters.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    write_zeroes(image, offset, len)
                }
                done => done,
            }
        })
    }

    /// The buffer of [`COPIED`] bytes. The one before was lost if its request failed.
    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = mem::take(&mut self.buffer);
        buffer.resize(COPIED, 0);
        buffer
    }
}

/// Returns what the image in `file` says about its backing file.
///
/// # Errors
/// It cannot be read, is damaged or is not supported.
pub(super) fn backing(file: File) -> io::Result<Option<Backing>> {
    contain(move || Ok(Header::read(&storage(file, true)?)?.backing))
}

/// Opens the image in `file`. Returns its cluster size in bytes, too.
fn open(
    file: File,
    readonly: bool,
    below: Option<FormatAccess<Guarded>>,
) -> io::Result<(FormatAccess<Guarded>, u32)> {
    let file = storage(file, readonly)?;
    let header = Header::read(&file)?;
    if let Some(Backing { name, .. }) = header.backing.as_ref().filter(|_| below.is_none()) {
        return Err(refused(format!("it has a backing file, {name:?}")));
    }
    let file = Guarded::image(file, &header);
    let mut opened = Opened::open_image(file, !readonly)?;
    // imago opens no file.
    opened.set_data_file(None);
    opened.set_backing(below);
    Ok((FormatAccess::new(opened), header.cluster))
}

fn storage(file: File, readonly: bool) -> io::Result<Storage> {
    let direct = fcntl_getfl(&file)?.contains(OFlags::DIRECT);
    let options = StorageOpenOptions::new().write(!readonly).direct(direct);
    Storage::from_open_file(file, options)
}

fn write_zeroes(image: &FormatAccess<Guarded>, mut offset: u64, mut len: u64) -> io::Result<()> {
    let mut zeroes = vec![0; COPIED];
    while len > 0 {
        let part = part(&mut zeroes, len);
        image.write(&*part, offset)?;
        offset += part.len() as u64;
        len -= part.len() as u64;
    }
    Ok(())
}

/// The first `len` bytes of `buffer`, or all of it if it is shorter.
fn part(buffer: &mut [u8], len: u64) -> &mut [u8] {
    let len = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
    buffer.split_at_mut(len).0
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
#[path = "qcow2_test.rs"]
mod tests;
