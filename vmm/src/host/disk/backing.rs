//! The backing files of a qcow2 image: where the image has no data, it reads as its backing file.
//!
//! The image names its backing file, so an untrusted image could make the monitor open any file of
//! the host. So this needs `backing=on`, and even then only regular files and block devices are
//! opened, read-only. The image must state the format of its backing file: a raw file is never
//! treated as an image, whatever a guest wrote to it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::DiskError;
use super::format;
use super::users::Identity;
use super::{raw_length, unreadable};
use crate::config::DiskFormat;
use crate::error::Error;
use crate::host::files;

/// The most backing files of an image.
const DEPTH_MAX: usize = 16;

/// An open backing file.
#[derive(Debug)]
pub struct BackingFile {
    /// Its path, relative to the working directory or absolute.
    pub path: PathBuf,
    /// The open file. Read-only.
    pub file: File,
    /// Its format, as the image above it states.
    pub format: DiskFormat,
}

/// Opens the backing file of the qcow2 image in `file`, opened from `path`, the backing file of
/// that, and so on.
///
/// # Errors
/// It has one, but `allowed` is false; or one of them cannot be used.
pub(super) fn open(path: &Path, file: &File, allowed: bool) -> Result<Vec<BackingFile>, Error> {
    let mut chain: Vec<BackingFile> = Vec::new();
    let mut seen = vec![identity(path, file)?];
    loop {
        let (above, file) = match chain.last() {
            None => (path, file),
            Some(BackingFile { format: DiskFormat::Raw, .. }) => return Ok(chain),
            Some(last) => (last.path.as_path(), &last.file),
        };
        let Some(named) = format::backing(above, file)? else {
            return Ok(chain);
        };
        let refused = |why: String| {
            let (path, name) = (above.into(), named.name.clone());
            Error::from(DiskError::Backing { path, name, why })
        };
        if !allowed {
            return Err(refused(
                "expected none (backing=on opens it, read-only)".into(),
            ));
        }
        if chain.len() == DEPTH_MAX {
            return Err(refused(format!(
                "the {}th, expected at most {DEPTH_MAX}",
                DEPTH_MAX + 1
            )));
        }
        let format = match named.format.as_deref() {
            Some("raw") => DiskFormat::Raw,
            Some("qcow2") => DiskFormat::Qcow2,
            Some(other) => {
                let expected = "expected \"raw\" or \"qcow2\"";
                return Err(refused(format!("of the format {other:?}, {expected}")));
            }
            None => {
                let cure = "qemu-img rebase -u -F FORMAT -b NAME IMAGE adds it";
                return Err(refused(format!(
                    "and the image does not state its format ({cure})"
                )));
            }
        };
        // QEMU treats the text before a colon as a protocol.
        let (first, _) = named.name.split_once('/').unwrap_or((&named.name, ""));
        if first.contains(':') {
            return Err(refused(
                "which names a protocol, expected a file name".into(),
            ));
        }
        let folder = above.parent().unwrap_or(Path::new(""));
        let path = folder.join(&named.name);
        let opened = files::open_disk(&path, true).and_then(|file| {
            let identity = identity(&path, &file)?;
            match seen.contains(&identity) {
                true => Err(refused("which is also above it: they form a loop".into())),
                false => Ok((file, identity)),
            }
        });
        let (file, identity) = opened.map_err(|source| {
            let (path, source) = (above.into(), Box::new(source));
            Error::from(DiskError::Below { path, source })
        })?;
        if format == DiskFormat::Raw {
            raw_length(&path, &file)?;
        }
        seen.push(identity);
        chain.push(BackingFile { path, file, format });
    }
}

fn identity(path: &Path, file: &File) -> Result<Identity, Error> {
    let metadata = file.metadata();
    Ok(Identity::of(
        &metadata.map_err(|source| unreadable(path, source))?,
    ))
}
