//! Disks: opens and checks them, and prevents a second user from writing to them.

mod backing;
mod error;
mod format;
mod lock;
mod users;

pub use backing::BackingFile;
pub use error::DiskError;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::iter;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use devices::block::{self, Block, Image, QUEUES_MAX};
use log::warn;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::config::{self, DiskFormat};
use crate::error::Error;
use crate::host::files::{self, FileError};

use self::users::Identity;

/// A disk image, or a block device on the host.
#[derive(Debug)]
pub struct Disk {
    /// The configuration.
    pub config: config::Disk,
    /// The open file. Writable unless `readonly`.
    pub file: File,
    /// The disk's size in bytes when it was opened: a multiple of 512, not 0.
    pub size: u64,
    /// The number of queues.
    pub queues: u16,
    /// The image format of `file`.
    pub format: DiskFormat,
    /// The backing file of the image, the backing file of that, and so on.
    pub backing: Vec<BackingFile>,
    /// Keeps other users away: the claim on a block device, and the locked files behind loop
    /// devices.
    held: OnceLock<Vec<File>>,
    /// Whether an I/O error of the host was reported; kept across reboots.
    reported: Arc<AtomicBool>,
}

/// Opens the disks of a machine with `cpus` vCPUs, in order.
///
/// # Errors
/// A disk is given twice, or cannot be used.
pub fn open(configs: &[config::Disk], cpus: u32) -> Result<Vec<Disk>, Error> {
    let mut disks: Vec<Disk> = Vec::new();
    for config in configs {
        let disk = Disk::open(config, cpus)?;
        for other in &disks {
            for (first, second) in pairs(other, &disk) {
                if !(first.readonly && second.readonly)
                    && first.identity()?.overlaps(second.identity()?)
                {
                    let (first, second) = (first.path.into(), second.path.into());
                    return Err(Error::from(DiskError::Twice { first, second }));
                }
            }
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// One of the files of a disk.
#[derive(Clone, Copy)]
struct Part<'a> {
    path: &'a Path,
    file: &'a File,
    readonly: bool,
}

impl Part<'_> {
    fn identity(&self) -> Result<Identity, Error> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| unreadable(self.path, source))?;
        Ok(Identity::of(&metadata))
    }

    /// Adds to `held` what keeps other users of this host away.
    fn claim(&self, held: &mut Vec<File>) -> Result<(), Error> {
        let identity = self.identity()?;
        let claim = users::claim(self.file, self.readonly);
        let users = users::of(identity);
        if let Some(user) = users.iter().find(|user| user.writes || !self.readonly) {
            return Err(self.in_use(&user.what));
        }
        match claim {
            // Other readers are allowed.
            Ok(claim) => held.extend(claim.filter(|_| !self.readonly)),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                if !users.iter().any(|user| user.claims) {
                    let process = users::process(identity).unwrap_or("a program".into());
                    return Err(self.in_use(&format!("{process} has claimed it, or a part of it")));
                }
            }
            Err(error) => warn!("cannot claim disk {:?}: {error}", self.path),
        }
        for (path, whole) in users::backing_files(identity) {
            match File::open(&path) {
                Ok(file) => {
                    self.take(&file)?;
                    // Other parts of the file may have other users, so its lock is only tested, not
                    // kept.
                    held.extend(Some(file).filter(|_| whole));
                }
                Err(error) => warn!("cannot lock {path:?} behind disk {:?}: {error}", self.path),
            }
        }
        Ok(())
    }

    fn in_use(&self, user: &str) -> Error {
        Error::from(DiskError::InUse { path: self.path.into(), user: user.into() })
    }

    /// Locks a file that contains this one.
    fn take(&self, file: &File) -> Result<(), Error> {
        match lock::take(file, self.readonly) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let metadata = file.metadata().ok();
                let process = metadata.and_then(|it| users::process(Identity::of(&it)));
                Err(Error::from(DiskError::Locked {
                    path: self.path.into(),
                    who: if self.readonly { "writes to" } else { "has" },
                    process: process.map_or(String::new(), |process| format!(", {process}")),
                }))
            }
            Err(error) => {
                warn!("cannot lock disk {:?}: {error}", self.path);
                Ok(())
            }
        }
    }
}

fn pairs<'a>(first: &'a Disk, second: &'a Disk) -> impl Iterator<Item = (Part<'a>, Part<'a>)> {
    first
        .parts()
        .flat_map(|one| second.parts().map(move |other| (one, other)))
}

impl Disk {
    /// Opens a disk of a machine with `cpus` vCPUs.
    ///
    /// # Errors
    /// The disk cannot be used.
    pub(crate) fn open(config: &config::Disk, cpus: u32) -> Result<Disk, Error> {
        let path = &config.path;
        let file = files::open_disk(path, config.readonly)?;
        let format = match config.format {
            Some(format) => format,
            None => format::of(path, &file)?,
        };
        let (size, backing) = match format {
            DiskFormat::Raw if config.backing => {
                return Err(Error::from(DiskError::RawBacking { path: path.clone() }));
            }
            DiskFormat::Raw => (raw_length(path, &file)?, Vec::new()),
            DiskFormat::Qcow2 => {
                let backing = backing::open(path, &file, config.backing)?;
                (format::qcow2_size(path, &file, &backing)?, backing)
            }
        };
        if !config.readonly {
            check_writable(path, &file)?;
        }
        let one_per_vcpu = u16::try_from(cpus).map_or(QUEUES_MAX, |cpus| cpus.min(QUEUES_MAX));
        let disk = Disk {
            size,
            file,
            queues: config.queues.unwrap_or(one_per_vcpu),
            format,
            backing,
            held: OnceLock::new(),
            reported: Arc::default(),
            config: config.clone(),
        };
        for part in disk.parts().filter(|_| config.direct) {
            let path = part.path.into();
            make_direct(part.file)
                .map_err(|source| Error::from(DiskError::Direct { path, source }))?;
        }
        disk.check_size()?;
        Ok(disk)
    }

    /// Creates a read-only disk from `file`, which no other process has.
    pub(crate) fn private(file: File, size: u64) -> Disk {
        // A name that other programs of this user, such as QEMU, can open.
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let config = config::Disk {
            readonly: true,
            lock: false,
            format: Some(DiskFormat::Raw),
            ..config::Disk::new(path.into())
        };
        Disk {
            config,
            file,
            size,
            queues: 1,
            format: DiskFormat::Raw,
            backing: Vec::new(),
            held: OnceLock::new(),
            reported: Arc::default(),
        }
    }

    fn check_size(&self) -> Result<(), Error> {
        let (path, size) = (self.config.path.clone(), self.size);
        let multiple = match self.format {
            DiskFormat::Raw => block::granularity(&self.file).max(self.config.block_size.into()),
            DiskFormat::Qcow2 => self.config.block_size.into(),
        };
        match size {
            0 => Err(Error::from(FileError::Empty { what: "disk", path })),
            _ if !size.is_multiple_of(multiple) => Err(Error::from(DiskError::Size {
                path,
                size,
                multiple,
                rounded: size.next_multiple_of(multiple),
            })),
            _ => Ok(()),
        }
    }

    /// Returns the disk as the value of an option such as `--disk`.
    pub(crate) fn option(&self) -> OsString {
        let format = match self.format {
            DiskFormat::Raw => self.config.format,
            DiskFormat::Qcow2 => Some(self.format),
        };
        config::Disk {
            queues: (self.queues > 1).then_some(self.queues),
            format,
            ..self.config.clone()
        }
        .text()
    }

    /// The file of the disk, then its backing files.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let config = &self.config;
        let backing = self.backing.iter();
        let backing = backing.map(|BackingFile { path, file, .. }| (path, file, true));
        iter::once((&config.path, &self.file, config.readonly))
            .chain(backing)
            .map(|(path, file, readonly)| Part { path, file, readonly })
    }

    /// Checks that this host does not use the disk otherwise, and prevents it: by a claim on a
    /// block device, and by locks on the files behind loop devices. Both end with the process.
    ///
    /// # Errors
    /// It is in use.
    pub fn claim(&self) -> Result<(), Error> {
        if !self.config.lock || self.held.get().is_some() {
            return Ok(());
        }
        let mut held = Vec::new();
        for part in self.parts() {
            part.claim(&mut held)?;
        }
        let _ = self.held.set(held);
        Ok(())
    }

    /// [Claims](Disk::claim) the disk. Prevents other machines, under Hartvisor or QEMU, from
    /// writing to it, and from opening it at all if this one writes. The lock ends with the
    /// process.
    ///
    /// # Errors
    /// It is in use, possibly by another machine.
    pub fn lock(&self) -> Result<(), Error> {
        self.claim()?;
        let mut parts = self.parts().filter(|_| self.config.lock);
        parts.try_for_each(|part| part.take(part.file))
    }

    /// Releases the lock so that another program can take it.
    pub(crate) fn unlock(&self) {
        for part in self.parts().filter(|_| self.config.lock) {
            if let Err(error) = lock::release(part.file) {
                warn!("cannot unlock disk {:?}: {error}", part.path);
            }
        }
    }

    /// Creates the device that presents the disk to a guest, with its current size.
    ///
    /// # Errors
    /// The host has no file descriptor left, or cannot determine the size.
    pub fn device(&self) -> io::Result<Block> {
        let options = block::Options {
            readonly: self.config.readonly,
            serial: self.config.serial.as_deref().unwrap_or_default(),
            write_through: self.config.write_through,
            queues: self.queues,
            block_size: self.config.block_size,
            reported: Arc::clone(&self.reported),
            name: &format!("disk {:?}", self.config.path),
        };
        let file = self.file.try_clone()?;
        let image = match self.format {
            DiskFormat::Raw => Image::raw(file),
            DiskFormat::Qcow2 => format::qcow2(file, self.config.readonly, &self.backing)?,
        };
        let size = image.size()?;
        Ok(Block::of(image, size, &options))
    }

    /// Returns its current size in bytes. The size of a qcow2 image does not change while it is in
    /// use.
    ///
    /// # Errors
    /// The host cannot determine the size.
    pub fn length(&self) -> io::Result<u64> {
        match self.format {
            DiskFormat::Raw => length(&self.file),
            DiskFormat::Qcow2 => Ok(self.size),
        }
    }
}

/// Block devices have no size in their metadata, so seek to the end. Nothing uses the file
/// position.
fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Rejects what open(2) opens for writing but write(2) does not accept: a read-only block device,
/// swap space. A write of zero bytes has no effect but fails on these.
fn check_writable(path: &Path, mut file: &File) -> Result<(), Error> {
    let Err(source) = file.write(&[]) else {
        return Ok(());
    };
    let why = match source.raw_os_error() {
        Some(libc::EPERM | libc::EROFS) => "it is set read-only on this host",
        Some(libc::ETXTBSY) => "it is swap space of this host",
        _ => {
            return Err(Error::from(FileError::OpenWritable {
                path: path.into(),
                source,
            }));
        }
    };
    Err(Error::from(DiskError::ReadOnly { path: path.into(), why }))
}

/// Returns the size in bytes of a raw image or a block device. The kernel's own files (`/proc`,
/// `/sys`) look like regular files but have no size, or less data than their size.
fn raw_length(path: &Path, file: &File) -> Result<u64, Error> {
    let length = match length(file) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            return Err(files::no_disk(path, "a file without a length"));
        }
        other => other.map_err(|source| unreadable(path, source))?,
    };
    match length
        .checked_sub(1)
        .map(|last| file.read_at(&mut [0], last))
    {
        Some(Ok(0)) => Err(files::no_disk(path, "a file that ends before its length")),
        _ => Ok(length),
    }
}

fn make_direct(file: &File) -> io::Result<()> {
    Ok(fcntl_setfl(file, fcntl_getfl(file)? | OFlags::DIRECT)?)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    FileError::read("disk", path)(source)
}
