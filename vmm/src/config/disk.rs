//! A disk: `--disk FILE[,KEY[=VALUE]]…`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use devices::block::{QUEUES_MAX, SERIAL_MAX};
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, SWITCH, Wrong, choice, double_commas, split_at_single_commas};

/// The configuration of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Disk {
    /// The image or block device.
    pub path: PathBuf,
    /// The guest cannot write.
    #[serde(default)]
    pub readonly: bool,
    /// The serial number for the guest: 1 to 20 printable ASCII characters.
    #[serde(default)]
    pub serial: Option<String>,
    /// Make every write durable before it completes.
    #[serde(default)]
    pub write_through: bool,
    /// Bypass the host's page cache (O_DIRECT).
    #[serde(default)]
    pub direct: bool,
    /// The number of queues: 1 to 16.
    #[serde(default)]
    pub queues: Option<u16>,
    /// The logical block size for the guest: 512 or 4096 bytes.
    #[serde(default = "block_size")]
    pub block_size: u32,
    /// Refuse a disk that is used otherwise, on this host or by other machines.
    #[serde(default = "super::yes")]
    pub lock: bool,
    /// The image format, regardless of the name and the content.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Open the backing files that a qcow2 image names, read-only.
    #[serde(default)]
    pub backing: bool,
}

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's copy-on-write format, in builds with the feature `qcow2`.
    Qcow2,
}

impl DiskFormat {
    /// Its name, here as in QEMU.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// The keys. A new one needs a field above, a row here, and code that uses it.
const KEYS: [Key<Disk>; 9] = [
    Key {
        form: "readonly[=on|off]",
        help: "",
        set: |disk, value| {
            disk.readonly = choice(value.or(Some("on")), SWITCH)?;
            Ok(())
        },
        text: |disk| disk.readonly.then(|| "readonly".into()),
    },
    Key {
        form: "serial=TEXT",
        help: "",
        set: |disk, value| {
            disk.serial = Some(value.ok_or(Wrong::Form)?.into());
            Ok(())
        },
        text: |disk| Some(format!("serial={}", disk.serial.as_deref()?)),
    },
    Key {
        form: "cache=writeback|writethrough",
        help: "cache=writeback (the default) keeps writes in the host's cache until the guest flushes it, \
               cache=writethrough makes each durable (the guest may change that).",
        set: |disk, value| {
            let values = [("writeback", false), ("writethrough", true)];
            disk.write_through = choice(value, values)?;
            Ok(())
        },
        text: |disk| disk.write_through.then(|| "cache=writethrough".into()),
    },
    Key {
        form: "direct=on|off",
        help: "direct=on bypasses the host's page cache.",
        set: |disk, value| {
            disk.direct = choice(value, SWITCH)?;
            Ok(())
        },
        text: |disk| disk.direct.then(|| "direct=on".into()),
    },
    Key {
        form: "queues=N",
        help: "queues=N sets the number of queues (default: one per vCPU, up to 16).",
        set: |disk, value| {
            let text = value.ok_or(Wrong::Form)?;
            let queues = text.parse().map_err(|_| Wrong::Because(queues(text)))?;
            disk.queues = Some(queues);
            Ok(())
        },
        text: |disk| Some(format!("queues={}", disk.queues?)),
    },
    Key {
        form: "block-size=512|4096",
        help: "block-size=4096 presents 4096-byte blocks instead of 512, for a disk partitioned that way.",
        set: |disk, value| {
            disk.block_size = choice(value, [("512", 512), ("4096", 4096)])?;
            Ok(())
        },
        text: |disk| (disk.block_size != 512).then(|| format!("block-size={}", disk.block_size)),
    },
    Key {
        form: "lock=on|off",
        help: "lock=off opens a disk even if another machine or this host uses it.",
        set: |disk, value| {
            disk.lock = choice(value, SWITCH)?;
            Ok(())
        },
        text: |disk| (!disk.lock).then(|| "lock=off".into()),
    },
    Key {
        form: "format=raw|qcow2",
        help: "A file is raw unless its name ends in .qcow2 or format=qcow2 is given; \
               format=raw treats it as raw even if it looks like another image format.",
        set: |disk, value| {
            let values = [DiskFormat::Raw, DiskFormat::Qcow2].map(|it| (it.name(), it));
            disk.format = Some(choice(value, values)?);
            Ok(())
        },
        text: |disk| Some(format!("format={}", disk.format?.name())),
    },
    Key {
        form: "backing=on|off",
        help: "backing=on opens the backing files that a qcow2 image names, read-only; \
               without it, such an image is refused.",
        set: |disk, value| {
            disk.backing = choice(value, SWITCH)?;
            Ok(())
        },
        text: |disk| disk.backing.then(|| "backing=on".into()),
    },
];

impl Disk {
    /// Creates the configuration of a file, with defaults for all keys.
    pub fn new(path: PathBuf) -> Self {
        Disk {
            path,
            readonly: false,
            serial: None,
            write_through: false,
            direct: false,
            queues: None,
            block_size: block_size(),
            lock: true,
            format: None,
            backing: false,
        }
    }

    /// Parses `FILE[,KEY[=VALUE]]…`. A doubled comma is a comma in a part. As in other monitors,
    /// `path=FILE` and `file=FILE` are the same as `FILE`.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = split_at_single_commas(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let first = first.as_bytes();
        let file = [&b"path="[..], b"file="]
            .iter()
            .find_map(|key| first.strip_prefix(*key));
        let path = PathBuf::from(OsStr::from_bytes(file.unwrap_or(first)));
        if path.as_os_str().is_empty() {
            return Err("the file name is missing, expected FILE[,readonly][,serial=TEXT]".into());
        }
        let mut disk = Disk::new(path);
        keys::set(&KEYS, &mut disk, parts)?;
        disk.check()?;
        Ok(disk)
    }

    /// Returns the text that [`Disk::parse`] parses as this disk.
    pub fn text(&self) -> OsString {
        let mut text = double_commas(self.path.as_os_str());
        text.push(keys::text(&KEYS, self));
        text
    }

    /// Describes the keys for `--help`.
    pub fn help() -> String {
        keys::help(&KEYS)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    pub fn check(&self) -> Result<(), String> {
        let range = 1..=QUEUES_MAX;
        if let Some(number) = self.queues.filter(|number| !range.contains(number)) {
            return Err(queues(&number.to_string()));
        }
        if !matches!(self.block_size, 512 | 4096) {
            return Err(format!(
                "block-size {}, expected 512 or 4096",
                self.block_size
            ));
        }
        self.serial.as_deref().map_or(Ok(()), check_serial)
    }
}

fn block_size() -> u32 {
    512
}

fn queues(given: &str) -> String {
    format!("queues {given:?}, expected 1 to {QUEUES_MAX}")
}

fn check_serial(serial: &str) -> Result<(), String> {
    let printable = serial
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    match serial.len() {
        1..=SERIAL_MAX if printable => Ok(()),
        0..=SERIAL_MAX => Err(format!(
            "serial {serial:?}, expected 1 to {SERIAL_MAX} printable ASCII characters"
        )),
        length => Err(format!(
            "serial {serial:?} has {length} bytes, at most {SERIAL_MAX} are possible"
        )),
    }
}
