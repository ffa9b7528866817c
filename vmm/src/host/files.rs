//! Opens files that the user named. Errors say what the file is instead of what was expected.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Class, Error};

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file named by the user cannot be opened.
    #[error("cannot open {what} {path:?}")]
    Open { what: &'static str, path: PathBuf, source: io::Error },

    /// A disk cannot be opened for writing, though it may be readable.
    #[error("cannot open disk {path:?} for writing (to use it read-only, give {path:?},readonly)")]
    OpenWritable { path: PathBuf, source: io::Error },

    /// A path names a directory, a pipe, or another unsupported file type.
    #[error("{what} {path:?} is {kind}, expected {wanted}")]
    Kind { what: &'static str, path: PathBuf, kind: &'static str, wanted: &'static str },

    /// A required file is empty.
    #[error("{what} {path:?} is empty")]
    Empty { what: &'static str, path: PathBuf },

    /// A file or a socket cannot be created.
    #[error("{option}: cannot create {path:?}")]
    Create { option: &'static str, path: PathBuf, source: io::Error },

    /// A file's content is invalid, such as a kernel's headers or a device tree's nodes.
    #[error("{what} {path:?}: {problem}")]
    Content { what: &'static str, path: PathBuf, problem: String },

    /// A kernel or an initrd was changed after it was checked and placed.
    #[error("{what} {path:?} was written to since it was opened: start again to boot the new one")]
    Changed { what: &'static str, path: PathBuf },

    /// A file was opened, but cannot be read to its end.
    #[error("cannot read {what} {path:?}")]
    Read { what: &'static str, path: PathBuf, source: io::Error },

    /// A file named by the user cannot be written.
    #[error("cannot write {what} {path:?}")]
    Write { what: &'static str, path: PathBuf, source: io::Error },
}

impl FileError {
    /// Converts an error of opening `path`. `what` names the purpose of the file.
    pub(crate) fn open(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
        move |source| {
            let path = path.into();
            Error::from(FileError::Open { what, path, source })
        }
    }

    /// Converts an error of creating `path`, which `option` names.
    pub(crate) fn create(option: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
        move |source| {
            let path = path.into();
            Error::from(FileError::Create { option, path, source })
        }
    }

    /// Converts an error of reading `path`.
    pub(crate) fn read(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
        move |source| {
            let path = path.into();
            Error::from(FileError::Read { what, path, source })
        }
    }

    /// The error of writing `what` ("the process id to") `path`.
    pub(crate) fn write(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
        move |source| {
            let path = path.into();
            Error::from(FileError::Write { what, path, source })
        }
    }

    /// The error of invalid content of `path`.
    pub(crate) fn content(what: &'static str, path: &Path, problem: impl Into<String>) -> Error {
        Error::from(FileError::Content { what, path: path.into(), problem: problem.into() })
    }

    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            FileError::Read { .. } => Class::Own,
            _ => Class::Usage,
        }
    }
}

/// Opens a regular file that is not empty for reading, and returns its length in bytes. `what`
/// names its purpose in errors.
pub(crate) fn open_input(what: &'static str, path: &Path) -> Result<(File, u64), Error> {
    // Checked before it is opened: opening a FIFO waits for the other end, and opening a device may
    // have side effects.
    let open_error = FileError::open(what, path);
    expect_regular(what, path, &path.metadata().map_err(open_error)?)?;
    let file = File::open(path).map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    expect_regular(what, path, &metadata)?;
    match metadata.len() {
        0 => Err(Error::from(FileError::Empty { what, path: path.into() })),
        length => Ok((file, length)),
    }
}

/// Detects writes to an open file. A file that was replaced (by rename, as package managers do) is
/// another file, and the open one is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    length: u64,
    /// Time of the last write: seconds and nanoseconds.
    written: (i64, i64),
}

impl Stamp {
    /// Returns the current stamp of `file`.
    pub(crate) fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp { length: metadata.len(), written: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

/// Opens a disk: a regular file or a block device.
pub(crate) fn open_disk(path: &Path, readonly: bool) -> Result<File, Error> {
    let open_error = FileError::open("disk", path);
    expect_disk(path, &path.metadata().map_err(open_error)?)?;
    let file = OpenOptions::new().read(true).write(!readonly).open(path);
    let file = file.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            if !readonly && File::open(path).is_ok() =>
        {
            Error::from(FileError::OpenWritable { path: path.into(), source })
        }
        _ => open_error(source),
    })?;
    expect_disk(path, &file.metadata().map_err(open_error)?)?;
    Ok(file)
}

/// Checks that the directory of `path` exists. `option` is the option that names it.
pub(crate) fn check_folder(option: &'static str, path: &Path) -> Result<(), Error> {
    let source = match folder(path).metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => io::Error::from_raw_os_error(libc::ENOTDIR),
        Err(error) => error,
    };
    Err(FileError::create(option, path)(source))
}

/// Returns the directory of `path`.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Rejects anything but a regular file.
pub(crate) fn expect_regular(
    what: &'static str,
    path: &Path,
    metadata: &Metadata,
) -> Result<(), Error> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Error::from(FileError::Kind {
        what,
        path: path.into(),
        kind: kind(metadata),
        wanted: "a regular file",
    }))
}

fn expect_disk(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    if metadata.is_file() || metadata.file_type().is_block_device() {
        return Ok(());
    }
    Err(no_disk(path, kind(metadata)))
}

/// Returns the error of a disk of an unsupported file type.
pub(crate) fn no_disk(path: &Path, kind: &'static str) -> Error {
    Error::from(FileError::Kind {
        what: "disk",
        path: path.into(),
        kind,
        wanted: "a raw image file or a block device",
    })
}

/// Returns the file type for messages.
pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    match () {
        () if file_type.is_dir() => "a directory",
        () if file_type.is_fifo() => "a pipe",
        () if file_type.is_socket() => "a socket",
        () if file_type.is_char_device() => "a character device",
        () if file_type.is_block_device() => "a block device",
        () if file_type.is_file() => "a regular file",
        () => "not a regular file",
    }
}
