//! The disks: opened, checked, and kept from being written by two machines at once.

mod format;
mod lock;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use devices::block::{self, Block, Image, QUEUES_MAX};
use log::warn;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::{self, DiskFormat};
use crate::error::Error;
use crate::files;
use crate::layout::VIRTIO_SLOTS;

/// How many disks there can be at most: the console has the first virtio-mmio slot.
const DISKS_MAX: usize = VIRTIO_SLOTS - 1;

/// A disk image, or a block device of the host.
#[derive(Debug)]
pub struct Disk {
    /// What was asked for.
    pub config: config::Disk,
    /// The open file: for reading and writing, or for reading when `readonly`.
    pub file: File,
    /// The disk's length in bytes when it was opened, a multiple of 512, not 0.
    pub size: u64,
    /// The number of queues.
    pub queues: u16,
    /// How `file` holds it.
    pub format: DiskFormat,
}

/// Opens the disks of a machine with `cpus` vCPUs, in their order.
///
/// # Errors
/// There are too many, one is twice there, or one cannot serve.
pub fn open(configs: &[config::Disk], rng: bool, cpus: u32) -> Result<Vec<Disk>, Error> {
    let (limit, taken) = match rng {
        false => (DISKS_MAX, "the console takes one"),
        true => (
            DISKS_MAX - 1,
            "the console and the random number generator (not with --no-rng) take one each",
        ),
    };
    if configs.len() > limit {
        return Err(Error::TooManyDisks {
            given: configs.len(),
            limit,
            slots: VIRTIO_SLOTS,
            taken,
        });
    }
    let mut disks: Vec<Disk> = Vec::new();
    for config in configs {
        let disk = Disk::open(config, cpus)?;
        for other in &disks {
            if !(disk.config.readonly && other.config.readonly)
                && disk.identity()? == other.identity()?
            {
                return Err(Error::DiskTwice {
                    first: other.config.path.clone(),
                    second: disk.config.path,
                });
            }
        }
        disks.push(disk);
    }
    Ok(disks)
}

impl Disk {
    /// Opens a disk of a machine with `cpus` vCPUs.
    ///
    /// # Errors
    /// It cannot serve.
    pub(crate) fn open(config: &config::Disk, cpus: u32) -> Result<Disk, Error> {
        let path = &config.path;
        let file = files::open_disk(path, config.readonly)?;
        let format = match config.format {
            Some(format) => format,
            None => format::of(path, &file)?,
        };
        if config.direct {
            make_direct(&file).map_err(|source| Error::DiskDirect {
                path: path.clone(),
                source,
            })?;
        }
        let one_per_vcpu = u16::try_from(cpus).map_or(QUEUES_MAX, |cpus| cpus.min(QUEUES_MAX));
        let disk = Disk {
            size: match format {
                DiskFormat::Raw => length(&file).map_err(|source| unreadable(path, source))?,
                DiskFormat::Qcow2 => format::qcow2_size(path, &file)?,
            },
            file,
            queues: config.queues.unwrap_or(one_per_vcpu),
            format,
            config: config.clone(),
        };
        disk.check_size()?;
        Ok(disk)
    }

    fn check_size(&self) -> Result<(), Error> {
        let (path, size) = (self.config.path.clone(), self.size);
        let multiple = match self.format {
            DiskFormat::Raw => block::granularity(&self.file),
            DiskFormat::Qcow2 => block::SECTOR,
        };
        match size {
            0 => Err(Error::EmptyFile { what: "disk", path }),
            _ if !size.is_multiple_of(multiple) => Err(Error::DiskSize {
                path,
                size,
                multiple,
                rounded: size.next_multiple_of(multiple),
            }),
            _ => Ok(()),
        }
    }

    /// It as the value of an option, such as `--disk`.
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

    /// What tells one file of the host from another, whatever its names: device and inode, or the device it stands for.
    fn identity(&self) -> Result<(u64, u64), Error> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| unreadable(&self.config.path, source))?;
        Ok(if metadata.rdev() == 0 {
            (metadata.dev(), metadata.ino())
        } else {
            (u64::MAX, metadata.rdev())
        })
    }

    /// Keeps other machines, ours and QEMU's, from writing to it, or from having it at all where this one writes. The
    /// lock ends with the process.
    ///
    /// # Errors
    /// Another machine has it.
    pub fn lock(&self) -> Result<(), Error> {
        if !self.config.lock {
            return Ok(());
        }
        match lock::take(&self.file, self.config.readonly) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::DiskLocked {
                path: self.config.path.clone(),
                who: if self.config.readonly {
                    "writes to"
                } else {
                    "has"
                },
            }),
            Err(error) => {
                warn!("cannot lock disk {:?}: {error}", self.config.path);
                Ok(())
            }
        }
    }

    /// Gives the lock up, for another program to take it.
    pub(crate) fn unlock(&self) {
        if self.config.lock
            && let Err(error) = lock::release(&self.file)
        {
            warn!("cannot unlock disk {:?}: {error}", self.config.path);
        }
    }

    /// The device that shows it to a guest, with the size that it has now.
    ///
    /// # Errors
    /// The host has no file descriptor left, or cannot say the size.
    pub fn device(&self) -> io::Result<Block> {
        let options = block::Options {
            readonly: self.config.readonly,
            serial: self.config.serial.as_deref().unwrap_or_default(),
            write_through: self.config.write_through,
            queues: self.queues,
            block_size: 512,
            name: &format!("disk {:?}", self.config.path),
        };
        let file = self.file.try_clone()?;
        let image = match self.format {
            DiskFormat::Raw => Image::raw(file),
            DiskFormat::Qcow2 => format::qcow2(file, self.config.readonly)?,
        };
        let size = image.size()?;
        Ok(Block::of(image, size, &options))
    }

    /// Its length in bytes, now. That of a qcow2 image does not change while it is in use.
    ///
    /// # Errors
    /// The host cannot say.
    pub fn length(&self) -> io::Result<u64> {
        match self.format {
            DiskFormat::Raw => length(&self.file),
            DiskFormat::Qcow2 => Ok(self.size),
        }
    }
}

/// A block device has no length in its metadata, but an end. The file's position is nobody's concern.
fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn make_direct(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT))?;
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Read {
        what: "disk",
        path: path.into(),
        source,
    }
}
