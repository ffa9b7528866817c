//! Which format an image has, and qcow2 where this build has it.
//!
//! The user says it, by `format=` or by a name that ends in `.qcow2`. The content never decides: a
//! guest writes what it likes to its raw disk, and one that becomes qcow2 by that at the next start
//! may be of any size, and feeds the parser. So a raw disk that looks like something else is refused
//! until the user says `format=raw`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use devices::block::Image;

use crate::config::DiskFormat;
use crate::error::Error;

/// How the formats look that a user may take for a disk: a name, an offset in bytes, what is there.
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

/// The format of `file`, opened from `path`, of which the user said nothing.
///
/// # Errors
/// It looks like an image of another format, or is one that this build cannot open.
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
    // What cannot be read is reported by others.
    let _ = file.read_at(&mut beginning, 0);
    let is = |(_, offset, mark): &&(&str, usize, &[u8])| {
        beginning
            .get(*offset..)
            .is_some_and(|it| it.starts_with(mark))
    };
    MARKS.iter().find(is).map(|(format, ..)| *format)
}

fn refused(path: &Path, format: &'static str, by: &'static str) -> Error {
    Error::DiskFormat {
        path: path.into(),
        format,
        by,
        hint: match (format, cfg!(feature = "qcow2")) {
            ("qcow2", true) => "format=qcow2 opens it as one, ",
            ("qcow2", false) => "a build with the feature qcow2 opens one, ",
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
        return Err(refused(path, "qcow2", "format=qcow2"));
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
