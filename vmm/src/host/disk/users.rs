//! Other users of a disk's file on this host: mounts, swap space, LVM and RAID, loop devices.
//!
//! ```text
//!   /dev/sda1 ── partition of ── /dev/sda       claimed by O_EXCL, under any device node
//!   /dev/loop0 ─ backing file ── disk.img       read from /sys/block/loop0/loop/backing_file
//!   /dev/dm-0 ── slaves ──────── /dev/loop0 …   read from /sys/dev/block/MAJOR:MINOR/slaves
//! ```
//!
//! A mount, swap space, device mapper and MD claim their block device exclusively. A claim on a
//! partition also covers the whole disk. A loop device claims nothing.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libc::{major, makedev, minor};

/// How often a reader retries a claim, and the time between two attempts.
const READER_TRIES: usize = 10;
const READER_PAUSE: Duration = Duration::from_millis(10);

/// Identifies a disk of the host, independently of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A file: the device number of its file system, and its inode.
    File(u64, u64),
    /// A block device: its number.
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

    /// Whether a write to one may change the other: they are the same, or one is a partition of the
    /// other.
    pub(super) fn overlaps(self, other: Identity) -> bool {
        let within = |part: Identity, whole| match (part, whole) {
            (Identity::Device(part), Identity::Device(whole)) => whole_of(part) == Some(whole),
            _ => false,
        };
        self == other || within(self, other) || within(other, self)
    }
}

/// A user of a disk other than a virtual machine.
#[derive(Debug)]
pub(super) struct User {
    /// What it does with the disk, for a message: "/dev/sda1 is mounted at /srv".
    pub(super) what: String,
    /// Whether it may write.
    pub(super) writes: bool,
    /// Whether it has claimed the block device.
    pub(super) claims: bool,
}

/// Returns the users of a disk that `/proc` and `/sys` show.
pub(super) fn of(disk: Identity) -> Vec<User> {
    let mut users = mounts(disk);
    users.extend(swaps(disk));
    users.extend(holders(disk));
    users.extend(loops(disk));
    users
}

/// Claims a block device. Until the claim is closed, no other process can mount it, use it as swap
/// space, or claim it, its partitions or the whole disk. Returns `None` for a file, which cannot be
/// claimed. Readers only test for a claim, so they retry if another reader is testing.
///
/// # Errors
/// `ResourceBusy` if another process has the claim.
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

/// Returns the files that hold a block device's data through loop devices, and whether the device
/// is the whole file, so that the file can have no other user.
pub(super) fn backing_files(disk: Identity) -> Vec<(PathBuf, bool)> {
    /// More layers than are used in practice.
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

/// Returns the process that has the disk or a part of it open, for a message: "qemu-system-ris
/// (process 12)". Only root sees the processes of other users.
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
        // Files are mounted through loop devices.
        return Vec::new();
    }
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| mount(line, |mounted| disk.overlaps(mounted)))
        .collect()
}

/// Parses a line of mountinfo (proc_pid_mountinfo(5)). Returns it if it is a mount of a disk that
/// `is_ours`.
fn mount(line: &str, is_ours: impl Fn(Identity) -> bool) -> Option<User> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, place) = (number(mount.next()?)?, mount.nth(1)?);
    let mut file_system = file_system.split(' ').skip(1);
    let (source, options) = (file_system.next()?, file_system.next()?);
    // A file system on several devices, such as btrfs, has its own device number.
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
        .map(|path| User { what: format!("{path} is swap space"), writes: true, claims: true })
        .collect()
}

/// Device mapper (LVM, encryption) and MD (RAID) on the disk or one of its partitions.
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
                what: format!("loop device /dev/{name} uses it"),
                writes: !is_readonly(&device),
                claims: false,
            }
        })
        .collect()
}

/// Returns the backing file of a loop device, given its sysfs directory.
fn backing_file(device: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut path = fs::read(device.join("loop/backing_file")).ok()?;
    path.pop_if(|last| *last == b'\n');
    Some(std::ffi::OsString::from_vec(path).into())
}

fn is_readonly(device: &Path) -> bool {
    fs::read_to_string(device.join("ro")).is_ok_and(|text| text.trim() == "1")
}

/// Returns the whole disk of a partition.
fn whole_of(device: u64) -> Option<u64> {
    let device = sys(device);
    device.join("partition").exists().then_some(())?;
    let whole = fs::canonicalize(device).ok()?;
    number(fs::read_to_string(whole.parent()?.join("dev")).ok()?.trim())
}

/// Returns the sysfs directory of a block device.
fn sys(device: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(device), minor(device)).into()
}

/// Returns the numbers of the devices in a sysfs directory.
fn numbers(folder: &Path) -> impl Iterator<Item = u64> + use<> {
    entries(folder).filter_map(|device| number(fs::read_to_string(device.join("dev")).ok()?.trim()))
}

/// Parses a device number as written in `/proc` and `/sys`.
fn number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Returns the entries of a directory, or none if it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
#[path = "users_test.rs"]
mod tests;
