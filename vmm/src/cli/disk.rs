//! `--disk`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use devices::block::{QUEUES_MAX, SERIAL_MAX};

use super::split_at_single_commas;

/// One `--disk` as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOption {
    /// The image, or a block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub readonly: bool,
    /// What the guest reads as the serial number: 1 to 20 printable ASCII characters.
    pub serial: Option<String>,
    /// Every write is made durable before it completes.
    pub write_through: bool,
    /// Past the host's page cache (O_DIRECT).
    pub direct: bool,
    /// The number of queues: 1 to 16.
    pub queues: Option<u16>,
    /// Another machine that has the image open is respected.
    pub lock: bool,
    /// What the image is, whatever it looks like.
    pub format: Option<DiskFormat>,
}

/// How an image holds a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// Byte for byte.
    Raw,
    /// As QEMU's own format, which builds with the feature `qcow2` have.
    Qcow2,
}

/// The keys, for who got one wrong.
const KEYS: &str = "readonly, serial=TEXT, cache=writeback|writethrough, direct=on|off, queues=N, lock=on|off and format=raw|qcow2";

impl DiskOption {
    /// The file with nothing else said.
    pub fn new(path: PathBuf) -> Self {
        DiskOption {
            path,
            readonly: false,
            serial: None,
            write_through: false,
            direct: false,
            queues: None,
            lock: true,
            format: None,
        }
    }

    /// Reads `FILE[,KEY[=VALUE]]…`, a doubled comma being one that belongs to a part.
    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = split_at_single_commas(text.as_bytes()).into_iter();
        let path = PathBuf::from(parts.next().unwrap_or_default());
        if path.as_os_str().is_empty() {
            return Err("the file name is missing, expected FILE[,readonly][,serial=TEXT]".into());
        }
        let mut disk = DiskOption::new(path);
        for part in parts {
            disk.set(&part.to_string_lossy())?;
        }
        Ok(disk)
    }

    fn set(&mut self, part: &str) -> Result<(), String> {
        match part.split_once('=') {
            None if part == "readonly" => self.readonly = true,
            Some(("serial", _)) if self.serial.is_some() => {
                return Err("serial is given twice".into());
            }
            Some(("serial", serial)) => self.serial = Some(check_serial(serial)?),
            Some(("cache", "writeback")) => self.write_through = false,
            Some(("cache", "writethrough")) => self.write_through = true,
            Some(("direct", "on")) => self.direct = true,
            Some(("direct", "off")) => self.direct = false,
            Some(("queues", number)) => self.queues = Some(check_queues(number)?),
            Some(("lock", "on")) => self.lock = true,
            Some(("lock", "off")) => self.lock = false,
            Some(("format", "raw")) => self.format = Some(DiskFormat::Raw),
            Some(("format", "qcow2")) => self.format = Some(DiskFormat::Qcow2),
            Some((key @ ("cache" | "direct" | "lock" | "format"), value)) => {
                return Err(format!("{key} cannot be {value:?}, known are {KEYS}"));
            }
            _ => {
                return Err(format!(
                    "unknown key {part:?}, known are {KEYS} (a comma in the file name is written twice)"
                ));
            }
        }
        Ok(())
    }
}

fn check_serial(serial: &str) -> Result<String, String> {
    let printable = serial
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    match serial.len() {
        1..=SERIAL_MAX if printable => Ok(serial.into()),
        0..=SERIAL_MAX => Err(format!(
            "serial {serial:?}, expected 1 to {SERIAL_MAX} printable ASCII characters"
        )),
        length => Err(format!(
            "serial {serial:?} has {length} bytes, at most {SERIAL_MAX} are possible"
        )),
    }
}

fn check_queues(number: &str) -> Result<u16, String> {
    let queues = number.parse().ok();
    queues
        .filter(|queues| (1..=QUEUES_MAX).contains(queues))
        .ok_or(format!("queues {number:?}, expected 1 to {QUEUES_MAX}"))
}
