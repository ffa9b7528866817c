//! A device that another process serves: `--vhost-user socket=PATH,type=TYPE[,KEY=VALUE]…`.

use std::ffi::OsStr;
use std::path::PathBuf;

use devices::net::Mac;
use devices::transport::remote::Kind;
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, Wrong, choice, split_at_single_commas};
use super::net;

const HELP: &str = "A device that another process serves, a vhost-user back end, such as hartvisor vhost-user. It maps all of the guest's memory, so that is shared. A back end that ends is waited for. Up to 26 times, less the other devices.";

const FORM: &str = "expected socket=PATH,type=blk|net|fs|rng|vsock";

/// The largest queue of vhost-user back ends that are known.
const QUEUE_SIZE_MAX: u16 = 1024;

/// The configuration of a device that another process serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Remote {
    /// The socket of the back end.
    pub socket: PathBuf,
    /// What the device is.
    #[serde(rename = "type")]
    pub kind: Option<RemoteType>,
    /// The size of its queues, instead of the usual one.
    #[serde(default)]
    pub queue_size: Option<u16>,
    /// The name by which a guest mounts a file system.
    #[serde(default)]
    pub tag: Option<String>,
    /// The hardware address of a network card, instead of a derived one.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
}

/// The types of devices that other processes can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteType {
    /// A disk.
    Blk,
    /// A network card.
    Net,
    /// A file system.
    Fs,
    /// A random number generator.
    Rng,
    /// A socket device.
    Vsock,
}

/// The types by name, as on QEMU's command line.
const TYPES: [(&str, RemoteType); 5] = [
    ("blk", RemoteType::Blk),
    ("net", RemoteType::Net),
    ("fs", RemoteType::Fs),
    ("rng", RemoteType::Rng),
    ("vsock", RemoteType::Vsock),
];

/// The keys. A new one needs a field above, a row here, and code that uses it. No other program
/// gets them, so they have no text.
const KEYS: [Key<Remote>; 5] = [
    Key {
        form: "socket=PATH",
        help: "",
        set: |remote, value| {
            remote.socket = value.ok_or(Wrong::Form)?.into();
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "type=blk|net|fs|rng|vsock",
        help: "type= is what the device is.",
        set: |remote, value| {
            remote.kind = Some(choice(value, TYPES)?);
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "queue-size=N",
        help: "queue-size= is the size of its queues (default: 128, 256 for net, 4 for rng).",
        set: |remote, value| {
            let text = value.ok_or(Wrong::Form)?;
            let size = text
                .parse()
                .ok()
                .filter(|size: &u16| size.is_power_of_two() && (2..=QUEUE_SIZE_MAX).contains(size));
            let wrong = || {
                Wrong::Because(format!(
                    "queue-size cannot be {text:?}: expected a power of two from 2 to {QUEUE_SIZE_MAX}"
                ))
            };
            remote.queue_size = Some(size.ok_or_else(wrong)?);
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "tag=NAME",
        help: "tag= is the name by which the guest mounts a file system (type=fs).",
        set: |remote, value| {
            remote.tag = Some(value.ok_or(Wrong::Form)?.into());
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "mac=XX:XX:XX:XX:XX:XX",
        help: "mac= is the hardware address of a network card.",
        set: |remote, value| {
            remote.mac = Some(net::mac(value.ok_or(Wrong::Form)?).ok_or(Wrong::Value)?);
            Ok(())
        },
        text: |_| None,
    },
];

impl Remote {
    /// Parses `socket=PATH,type=TYPE` with further keys.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Remote, String> {
        let mut remote = Remote::default();
        keys::set(&KEYS, &mut remote, split_at_single_commas(text))?;
        remote.check()?;
        Ok(remote)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.socket.as_os_str().is_empty() {
            return Err(format!("no socket is given, {FORM}"));
        }
        let kind = self
            .kind
            .ok_or_else(|| format!("no type is given, {FORM}"))?;
        match (&self.tag, kind) {
            (Some(tag), RemoteType::Fs) => check_tag(tag)?,
            (None, RemoteType::Fs) => {
                return Err("type=fs needs tag=NAME, the name to mount".into());
            }
            (Some(_), _) => return Err("tag= is for type=fs only".into()),
            (None, _) => {}
        }
        match (self.mac, kind) {
            (Some(mac), RemoteType::Net) => net::check_mac(mac),
            (Some(_), _) => Err("mac= is for type=net only".into()),
            (None, _) => Ok(()),
        }
    }

    /// Describes it and its keys for `--help`.
    pub fn help() -> String {
        format!("{HELP} {}", keys::help(&KEYS))
    }

    /// Returns the option as the user knows it.
    pub(crate) fn label(&self) -> String {
        format!("--vhost-user socket={}", self.socket.display())
    }

    /// The size of its queues.
    pub(crate) fn queue_size(&self) -> u16 {
        // As in QEMU, whose users have tried the back ends with them.
        self.queue_size.unwrap_or(match self.kind {
            Some(RemoteType::Net) => 256,
            Some(RemoteType::Rng) => 4,
            _ => 128,
        })
    }

    /// What the device is, and its link if it is a network card. `mac` is that card's address
    /// unless one is configured.
    pub(crate) fn device(&self, mac: Mac) -> devices::transport::remote::Kind {
        let size = self.queue_size();
        match self.kind {
            Some(RemoteType::Net) => Kind::net(size, self.mac.map_or(mac, Mac), None, true),
            Some(RemoteType::Fs) => {
                Kind::file_system(size, self.tag.as_deref().unwrap_or_default())
            }
            Some(RemoteType::Rng) => Kind::rng(size),
            Some(RemoteType::Vsock) => Kind::vsock(size),
            Some(RemoteType::Blk) | None => Kind::block(size),
        }
    }
}

/// Checks the name of a file system.
pub(super) fn check_tag(tag: &str) -> Result<(), String> {
    match tag.len() {
        1..=Kind::TAG_MAX if !tag.contains('\0') => Ok(()),
        length => Err(format!(
            "tag {tag:?} has {length} bytes: expected 1 to {}, without a NUL",
            Kind::TAG_MAX
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_value_is_named_with_what_is_right() {
        let tag = format!("socket=s,type=fs,tag={}", "t".repeat(37));
        for (text, parts) in [
            ("", ["unknown key", "socket=PATH"]),
            ("type=blk", ["no socket is given", "socket=PATH"]),
            (
                "socket=s",
                ["no type is given", "type=blk|net|fs|rng|vsock"],
            ),
            (
                "socket=s,type=gpu",
                ["type cannot be \"gpu\"", "blk|net|fs"],
            ),
            ("socket=s,type=fs", ["needs tag=NAME", ""]),
            (&tag, ["has 37 bytes", "expected 1 to 36"]),
            ("socket=s,type=fs,tag=", ["has 0 bytes", "expected 1 to 36"]),
            ("socket=s,type=blk,tag=t", ["type=fs only", ""]),
            (
                "socket=s,type=blk,mac=02:00:00:00:00:01",
                ["type=net only", ""],
            ),
            (
                "socket=s,type=net,mac=01:00:00:00:00:01",
                ["multicast", "02"],
            ),
            (
                "socket=s,type=blk,queue-size=100",
                ["\"100\"", "power of two"],
            ),
            ("socket=s,type=blk,queue-size=2048", ["\"2048\"", "to 1024"]),
        ] {
            let problem = Remote::parse(text.as_ref()).unwrap_err();
            for part in parts {
                assert!(problem.contains(part), "{text}: {problem}");
            }
        }
    }

    #[test]
    fn queues_have_the_sizes_that_back_ends_know_from_qemu() {
        let size = |text: &str| Remote::parse(text.as_ref()).unwrap().queue_size();
        assert_eq!(size("socket=s,type=blk"), 128);
        assert_eq!(size("socket=s,type=net"), 256);
        assert_eq!(size("socket=s,type=rng"), 4);
        assert_eq!(size("socket=s,type=fs,tag=t,queue-size=1024"), 1024);
    }
}
