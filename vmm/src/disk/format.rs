//! Which format an image has, and qcow2 where this build has it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use devices::block::Image;

use crate::config::DiskFormat;
use crate::error::Error;

/// How the formats begin that a user may take for a disk.
const BEGINNINGS: [(&str, &[u8]); 3] = [
    ("qcow2", b"QFI\xfb"),
    ("vmdk", b"KDMV"),
    ("vhdx", b"vhdxfile"),
];

/// What `file`, opened from `path`, looks like.
///
/// A raw disk may come to begin like an image, since its guest writes what it likes. That does it no good: an image that refers
/// to other files of the host is refused, whatever it is.
///
/// # Errors
/// It is an image that this build cannot open.
pub(super) fn of(path: &Path, file: &File) -> Result<DiskFormat, Error> {
    let mut beginning = [0; 8];
    // What is shorter, or cannot be read, is told by others.
    if file.read_exact_at(&mut beginning, 0).is_err() {
        return Ok(DiskFormat::Raw);
    }
    let is = |(_, magic): &&(&str, &[u8])| beginning.starts_with(magic);
    match BEGINNINGS.iter().find(is) {
        None => Ok(DiskFormat::Raw),
        Some(("qcow2", _)) if cfg!(feature = "qcow2") => Ok(DiskFormat::Qcow2),
        Some((format, _)) => Err(refused(path, format)),
    }
}

fn refused(path: &Path, format: &'static str) -> Error {
    Error::DiskFormat {
        path: path.into(),
        format,
        hint: match format {
            "qcow2" => "a build with the feature qcow2 takes it, ",
            _ => "",
        },
    }
}

/// The size in bytes of the disk in a qcow2 image. Nothing is written.
///
/// # Errors
/// It cannot be opened as one, or this build has no qcow2.
pub(super) fn qcow2_size(path: &Path, file: &File) -> Result<u64, Error> {
    if !cfg!(feature = "qcow2") {
        return Err(refused(path, "qcow2"));
    }
    let image = file.try_clone().and_then(|file| qcow2(file, true));
    let size = image.and_then(|image| image.size());
    size.map_err(|source| Error::DiskImage {
        path: path.into(),
        source,
    })
}

/// The image in `file`.
///
/// # Errors
/// It cannot be opened as a qcow2 image, or this build has none.
pub(super) fn qcow2(file: File, readonly: bool) -> io::Result<Image> {
    #[cfg(feature = "qcow2")]
    return Image::qcow2(file, readonly);
    #[cfg(not(feature = "qcow2"))]
    {
        let _ = (file, readonly);
        Err(io::ErrorKind::Unsupported.into())
    }
}
