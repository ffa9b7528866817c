//! qcow2 images, through the synchronous interface of the crate imago.
//!
//! An image may come from anywhere, so it must not choose which host files are opened: an image
//! with a backing file or an external data file is refused. A damaged image causes I/O errors in
//! the guest.

use std::fs::File;
use std::io::{self, ErrorKind};

use imago::file::File as Storage;
use imago::qcow2::Qcow2 as Opened;
use imago::{DenyImplicitOpenGate, FormatAccess, StorageExt, StorageOpenOptions};
use rustix::fs::{OFlags, fcntl_getfl};

use super::Geometry;
use crate::virtio::chain::{Readable, Writable};

/// Bytes copied at once between the image and the driver's buffers.
const COPIED: usize = 64 * 1024;

/// An open image.
pub(super) struct Qcow2 {
    image: FormatAccess<Storage>,
    geometry: Geometry,
    buffer: Vec<u8>,
}

impl Qcow2 {
    pub(super) fn open(file: File, readonly: bool) -> io::Result<Qcow2> {
        let direct = fcntl_getfl(&file)?.contains(OFlags::DIRECT);
        let options = StorageOpenOptions::new().write(!readonly).direct(direct);
        let storage = Storage::from_open_file(file, options)?;
        let cluster = check(&storage)?;
        let mut opened: Opened<Storage> = Opened::open_image(storage, !readonly)?;
        if let Some(name) = opened.implicit_backing_file() {
            return Err(refused(format!("it has a backing file, {name:?}")));
        }
        if opened.requires_external_data_file() {
            return Err(refused("it has its data in another file"));
        }
        // There are none, and the gate ensures that no file is opened.
        opened.open_implicit_dependencies_gated(DenyImplicitOpenGate::default())?;
        Ok(Qcow2 {
            image: FormatAccess::new(opened),
            geometry: Geometry::of_clusters(cluster),
            buffer: vec![0; COPIED],
        })
    }

    /// The size in the header. It does not change while the image is open.
    #[expect(clippy::unnecessary_wraps, reason = "another format asks the host")]
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.image.size())
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn read(&mut self, out: &mut Writable, mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            let part = part(&mut self.buffer, out.len());
            self.image.read(&mut *part, offset)?;
            offset += out.write(part) as u64;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, data: &mut Readable, mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let part = part(&mut self.buffer, data.len());
            data.read(part);
            self.image.write(&*part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.image.flush()?;
        self.image.sync()
    }

    pub(super) fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match self.image.discard_to_any(offset, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let zeroed = match unmap {
            true => self.image.discard_to_zero(offset, len),
            false => self.image.write_zeroes(offset, len),
        };
        match zeroed {
            // Version 2 has no zero clusters.
            Err(error) if error.kind() == ErrorKind::Unsupported => self.write_out(offset, len),
            done => done,
        }
    }

    fn write_out(&mut self, mut offset: u64, mut len: u64) -> io::Result<()> {
        self.buffer.fill(0);
        while len > 0 {
            let part = part(&mut self.buffer, len);
            self.image.write(&*part, offset)?;
            offset += part.len() as u64;
            len -= part.len() as u64;
        }
        Ok(())
    }
}

/// The first `len` bytes of `buffer`, or all of it if it is shorter.
fn part(buffer: &mut [u8], len: u64) -> &mut [u8] {
    let len = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
    buffer.split_at_mut(len).0
}

/// Checks what imago does not check. Returns the cluster size in bytes.
fn check(file: &Storage) -> io::Result<u32> {
    // be32 magic, be32 version, be64 backing file, be32 its length, be32 cluster_bits, be64 size,
    // be32 crypt_method, be32 l1_size, be64 l1_table, be64 refcount_table, be32 its clusters;
    // version 3 has be32 refcount_order at 96.
    let magic: [u8; 4] = at(file, 0)?;
    if magic != *b"QFI\xfb" {
        return Err(refused("it is not a qcow2 image"));
    }
    if u32::from_be_bytes(at(file, 32)?) != 0 {
        return Err(refused("it is encrypted"));
    }
    // The header is in the first cluster, so its refcount must not be 0. If it is, imago (0.2.6)
    // allocates that cluster, or recurses until the stack overflows if the refcount block is
    // missing.
    let table = u64::from_be_bytes(at(file, 48)?);
    let block = u64::from_be_bytes(at(file, table)?) & !0x1ff;
    let order = match u32::from_be_bytes(at(file, 4)?) {
        3 => u32::from_be_bytes(at(file, 96)?).min(6),
        _ => 4,
    };
    let counts: [u8; 8] = at(file, block)?;
    let used = match order {
        0..3 => counts[0] & ((1 << (1 << order)) - 1) != 0,
        _ => counts.iter().take(1 << (order - 3)).any(|byte| *byte != 0),
    };
    if u32::from_be_bytes(at(file, 56)?) == 0 || block == 0 || !used {
        return Err(refused("its refcounts are damaged"));
    }
    let bits = u32::from_be_bytes(at(file, 20)?);
    let cluster = 1_u32.checked_shl(bits).unwrap_or(0);
    if u32::from_be_bytes(at(file, 4)?) == 3 {
        check_extensions(file, cluster.into())?;
    }
    Ok(cluster)
}

/// Checks the header extensions of version 3, which are in the first cluster: be32 type, be32
/// length, data padded to a multiple of 8 bytes.
fn check_extensions(file: &Storage, cluster: u64) -> io::Result<()> {
    const FEATURE_NAMES: u32 = 0x6803_f857;
    let mut offset = u64::from(u32::from_be_bytes(at(file, 100)?));
    while offset + 8 <= cluster {
        let kind = u32::from_be_bytes(at(file, offset)?);
        let len = u32::from_be_bytes(at(file, offset + 4)?);
        match kind {
            0 => break,
            // imago (0.2.6) panics on a truncated entry; each entry has 48 bytes.
            FEATURE_NAMES if !len.is_multiple_of(48) => {
                return Err(refused("its feature name table is damaged"));
            }
            _ => offset += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Ok(())
}

/// The bytes at `offset`; past the end of the file they are zeroes. imago reads them, as it handles
/// the alignment for O_DIRECT.
fn at<const N: usize>(file: &Storage, offset: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match file.read(&mut bytes[..], offset) {
        Ok(()) => Ok(bytes),
        // The offset is larger than any file.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(refused("it is damaged")),
        Err(error) => Err(error),
    }
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
#[path = "qcow2_test.rs"]
mod tests;
