//! Who else on this host uses a disk's file: mounts, swap space, LVM and RAID, loop devices.
//!
//! ```text
//!   /dev/sda1 ── partition of ── /dev/sda       claimed by O_EXCL, whichever node names them
//!   /dev/loop0 ─ backing file ── disk.img       read from /sys/block/loop0/loop/backing_file
//!   /dev/dm-0 ── slaves ──────── /dev/loop0 …   read from /sys/dev/block/MAJOR:MINOR/slaves
//! ```
//!
//! A mount, swap space, device mapper and MD claim their block device exclusively, and with it the
//! whole disk of a partition. A loop device claims nothing.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libc::{major, makedev, minor};

/// How often a reader looks again whether a block device is claimed, and the time between.
const READER_TRIES: usize = 10;
const READER_PAUSE: Duration = Duration::from_millis(10);

/// What tells one disk of the host from another, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A file: its file system's device, and its inode.
    File(u64, u64),
    /// A block device, by its number.
    Device(u64),
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Identity {
        match metadata.file_type().is_block_device() {
            true => Identity::Device(metadata.rdev()),
            false => Identity::File(metadata.dev(), metadata.ino()),
        }
    }

    fn at(path: impl AsRef<Path>) -> Option<Identity> {
        Some(Identity::of(&fs::metadata(path).ok()?))
    }

    /// Whether a write to the one may be a write to the other: they are the same, or the one is a
    /// partition of the other.
    pub(super) fn overlaps(self, other: Identity) -> bool {
        let within = |part: Identity, whole| match (part, whole) {
            (Identity::Device(part), Identity::Device(whole)) => whole_of(part) == Some(whole),
            _ => false,
        };
        self == other || within(self, other) || within(other, self)
    }
}

/// A user of a disk that is not a virtual machine.
#[derive(Debug)]
pub(super) struct User {
    /// What it does with the disk, for a message: "/dev/sda1 is mounted at /srv".
    pub(super) what: String,
    /// It may write.
    pub(super) writes: bool,
    /// It has claimed the block device.
    pub(super) claims: bool,
}

/// The users of a disk that this host's `/proc` and `/sys` name.
pub(super) fn of(disk: Identity) -> Vec<User> {
    let mut users = mounts(disk);
    users.extend(swaps(disk));
    users.extend(holders(disk));
    users.extend(loops(disk));
    users
}

/// Claims a block device: until the claim is closed, nobody else can mount it, make it swap space,
/// or claim it, its partitions or the whole disk. `None` for a file, which cannot be claimed.
/// Readers only look whether they could, so they meet others that look just now.
///
/// # Errors
/// `ResourceBusy` if another has the claim.
pub(super) fn claim(file: &File, readonly: bool) -> io::Result<Option<File>> {
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for _ in 0..READER_TRIES {
        match options.open(&path) {
            Err(error) if readonly && error.kind() == ErrorKind::ResourceBusy => {
                std::thread::sleep(READER_PAUSE);
            }
            done => return done.map(Some),
        }
    }
    options.open(&path).map(Some)
}

/// The files that hold the bytes of a block device, by way of loop devices; and whether it is all of
/// the file, so that there can be no other user of it.
pub(super) fn backing_files(disk: Identity) -> Vec<(PathBuf, bool)> {
    /// More layers than anybody stacks.
    const DEPTH: usize = 8;
    let mut files = Vec::new();
    let mut layer = vec![disk];
    for depth in 0..DEPTH {
        let mut below = Vec::new();
        for identity in layer {
            let Identity::Device(number) = identity else {
                continue;
            };
            let whole = whole_of(number);
            let device = sys(whole.unwrap_or(number));
            if let Some(path) = backing_file(&device) {
                below.extend(Identity::at(&path));
                files.push((path, depth == 0 && whole.is_none()));
            }
            below.extend(numbers(&device.join("slaves")).map(Identity::Device));
        }
        layer = below;
    }
    files
}

/// The process that has the disk, or a part of it, open, for a message: "qemu-system-ris (process 12)". Of other
/// users' processes only root learns.
pub(super) fn process(disk: Identity) -> Option<String> {
    let own = std::process::id().to_string();
    entries(Path::new("/proc"))
        .filter(|process| {
            let name = process.file_name().unwrap_or_default().to_string_lossy();
            name.parse::<u32>().is_ok() && name != own.as_str()
        })
        .find(|process| {
            let mut open = entries(&process.join("fd")).filter_map(Identity::at);
            open.any(|open| disk.overlaps(open))
        })
        .map(|process| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let id = process.file_name().unwrap_or_default().to_string_lossy();
            format!("{} (process {id})", name.trim())
        })
}

fn mounts(disk: Identity) -> Vec<User> {
    if matches!(disk, Identity::File(..)) {
        // By way of a loop device.
        return Vec::new();
    }
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| mount(line, |mounted| disk.overlaps(mounted)))
        .collect()
}

/// A line of mountinfo (proc_pid_mountinfo(5)), if it is a mount of a disk that `is_ours`.
fn mount(line: &str, is_ours: impl Fn(Identity) -> bool) -> Option<User> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, place) = (number(mount.next()?)?, mount.nth(1)?);
    let mut file_system = file_system.split(' ').skip(1);
    let (source, options) = (file_system.next()?, file_system.next()?);
    // A file system over several devices, as btrfs, has a number of its own.
    let source_is_ours = || source.starts_with('/') && Identity::at(source).is_some_and(&is_ours);
    (is_ours(Identity::Device(device)) || source_is_ours()).then(|| User {
        what: format!("{source} is mounted at {place}"),
        writes: options.split(',').any(|option| option == "rw"),
        claims: true,
    })
}

fn swaps(disk: Identity) -> Vec<User> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    paths
        .filter(|path| Identity::at(path).is_some_and(|swap| disk.overlaps(swap)))
        .map(|path| User {
            what: format!("{path} is swap space"),
            writes: true,
            claims: true,
        })
        .collect()
}

/// Device mapper (LVM, encryption) and MD (RAID) over the disk or one of its partitions.
fn holders(disk: Identity) -> Vec<User> {
    let Identity::Device(disk) = disk else {
        return Vec::new();
    };
    let mut folders = vec![sys(disk).join("holders")];
    folders.extend(entries(&sys(disk)).map(|partition| partition.join("holders")));
    folders.extend(whole_of(disk).map(|whole| sys(whole).join("holders")));
    folders
        .into_iter()
        .flat_map(|folder| entries(&folder))
        .map(|holder| {
            let device = holder.file_name().unwrap_or_default().to_string_lossy();
            let name = fs::read_to_string(holder.join("dm/name"));
            let name = name.map_or(String::new(), |name| format!(" ({})", name.trim()));
            User {
                what: format!("it is part of /dev/{device}{name}"),
                writes: !is_readonly(&holder),
                claims: true,
            }
        })
        .collect()
}

fn loops(disk: Identity) -> Vec<User> {
    entries(Path::new("/sys/block"))
        .filter(|device| {
            let backing = backing_file(device).and_then(Identity::at);
            backing.is_some_and(|backing| disk.overlaps(backing))
        })
        .map(|device| {
            let name = device.file_name().unwrap_or_default().to_string_lossy();
            User {
                what: format!("loop device /dev/{name} is over it"),
                writes: !is_readonly(&device),
                claims: false,
            }
        })
        .collect()
}

/// What a loop device, by its folder of sysfs, shows.
fn backing_file(device: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut path = fs::read(device.join("loop/backing_file")).ok()?;
    path.pop_if(|last| *last == b'\n');
    Some(std::ffi::OsString::from_vec(path).into())
}

fn is_readonly(device: &Path) -> bool {
    fs::read_to_string(device.join("ro")).is_ok_and(|text| text.trim() == "1")
}

/// The whole disk of a partition.
fn whole_of(device: u64) -> Option<u64> {
    let device = sys(device);
    device.join("partition").exists().then_some(())?;
    let whole = fs::canonicalize(device).ok()?;
    number(fs::read_to_string(whole.parent()?.join("dev")).ok()?.trim())
}

/// A block device's folder of sysfs.
fn sys(device: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(device), minor(device)).into()
}

/// The numbers of the devices in a folder of sysfs.
fn numbers(folder: &Path) -> impl Iterator<Item = u64> + use<> {
    entries(folder).filter_map(|device| number(fs::read_to_string(device.join("dev")).ok()?.trim()))
}

/// A device number as `/proc` and `/sys` write it.
fn number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// What is in a folder; nothing where there is none, or it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
#[path = "users_test.rs"]
mod tests;
