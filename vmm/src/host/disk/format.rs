//! The format of an image, and qcow2 support if this build has it.
//!
//! The user specifies the format, by `format=` or a name that ends in `.qcow2`. The content never
//! decides: a guest can write anything to its raw disk. If it wrote a qcow2 header, the next start
//! would parse an image of any size under the guest's control. So a raw disk that looks like
//! another format is rejected until the user says `format=raw`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use devices::block::Image;

use super::backing::BackingFile;
use super::error::DiskError;
use crate::config::DiskFormat;
use crate::error::Error;

/// Signatures of formats that a user may take for a raw disk: name, offset in bytes, signature.
const MARKS: [(&str, usize, &[u8]); 10] = [
    ("qcow2", 0, b"QFI\xfb"),
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"),
    ("vhd", 0, b"conectix"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
];

/// Determines the format of `file`, opened from `path`, if the user did not specify one.
///
/// # Errors
/// It looks like an image of another format, or this build does not support its format.
pub(super) fn of(path: &Path, file: &File) -> Result<DiskFormat, Error> {
    let extension = path.extension().unwrap_or_default();
    if extension.eq_ignore_ascii_case("qcow2") {
        return match cfg!(feature = "qcow2") {
            true => Ok(DiskFormat::Qcow2),
            false => Err(refused(path, "qcow2", "its name")),
        };
    }
    match looks_like(file) {
        None => Ok(DiskFormat::Raw),
        Some(format) => Err(refused(path, format, "its first bytes")),
    }
}

fn looks_like(file: &File) -> Option<&'static str> {
    let mut beginning = [0; 128];
    // A read error is reported elsewhere.
    let _ = file.read_at(&mut beginning, 0);
    let is = |(_, offset, mark): &&(&str, usize, &[u8])| {
        beginning
            .get(*offset..)
            .is_some_and(|it| it.starts_with(mark))
    };
    MARKS.iter().find(is).map(|(format, ..)| *format)
}

fn refused(path: &Path, format: &'static str, by: &'static str) -> Error {
    Error::from(DiskError::Format {
        path: path.into(),
        format,
        by,
        hint: match (format, cfg!(feature = "qcow2")) {
            ("qcow2", true) => "format=qcow2 opens it as one, ",
            ("qcow2", false) => "a build with the feature qcow2 opens one, ",
            _ => "",
        },
    })
}

/// The name and the format of a backing file, as an image states them.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) format: Option<String>,
}

/// Returns what the qcow2 image in `file` says about its backing file.
///
/// # Errors
/// It is not a valid qcow2 image, or this build lacks qcow2.
#[cfg(feature = "qcow2")]
pub(super) fn backing(path: &Path, file: &File) -> Result<Option<Named>, Error> {
    let backing = Image::backing(file).map_err(invalid(path))?;
    Ok(backing.map(|it| Named { name: it.name, format: it.format }))
}

/// Returns the size in bytes of the disk in a qcow2 image. Writes nothing.
///
/// # Errors
/// It is not a valid qcow2 image, or this build lacks qcow2.
pub(super) fn qcow2_size(path: &Path, file: &File, backing: &[BackingFile]) -> Result<u64, Error> {
    let image = file.try_clone().and_then(|file| qcow2(file, true, backing));
    let size = image.and_then(|image| image.size());
    size.map_err(invalid(path))
}

/// Opens the qcow2 image in `file`.
///
/// # Errors
/// It is not a valid qcow2 image, or this build lacks qcow2.
#[cfg(feature = "qcow2")]
pub(super) fn qcow2(file: File, readonly: bool, backing: &[BackingFile]) -> io::Result<Image> {
    let layer = |below: &BackingFile| {
        let qcow2 = below.format == DiskFormat::Qcow2;
        Ok(devices::block::Layer { file: below.file.try_clone()?, qcow2 })
    };
    let layers = backing.iter().map(layer).collect::<io::Result<_>>()?;
    Image::qcow2(file, readonly, layers)
}

fn invalid(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::from(DiskError::Image { path: path.into(), source })
}

#[cfg(not(feature = "qcow2"))]
pub(super) fn backing(path: &Path, _: &File) -> Result<Option<Named>, Error> {
    Err(refused(path, "qcow2", "format=qcow2"))
}

#[cfg(not(feature = "qcow2"))]
pub(super) fn qcow2(_: File, _: bool, _: &[BackingFile]) -> io::Result<Image> {
    Err(io::ErrorKind::Unsupported.into())
}
