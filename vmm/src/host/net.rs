//! Tap interfaces of the host, opened for network cards.

use std::io;

use devices::net::tap::{self, NotTap, Tap};
use devices::net::{Mac, Net};
use log::warn;
use twox_hash::XxHash64;

use crate::config;
use crate::error::{Class, Error};

/// Errors of network cards.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum NetError {
    #[error(
        "--net tap={name}: there is no such interface; make it: sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up"
    )]
    Missing { name: String },

    #[error(
        "--net tap={name}: it belongs to another user, and this one has no CAP_NET_ADMIN; make it for this user: sudo ip tuntap add dev {name} mode tap user $USER"
    )]
    NotPermitted { name: String },

    #[error("--net tap={name}: another program has attached to it")]
    InUse { name: String },

    #[error("--net tap={name}: it is not a tap interface")]
    NotTap { name: String },

    #[error(
        "--net tap={name}: cannot open {}; it needs the module tun (sudo modprobe tun) and access to the file",
        tap::DEVICE
    )]
    NoDevice {
        name: String,
        #[source]
        source: io::Error,
    },

    #[error("--net tap={name}: cannot attach to it")]
    Other {
        name: String,
        #[source]
        source: io::Error,
    },

    #[error("--net fd={fd}")]
    Fd {
        fd: i32,
        #[source]
        source: NotTap,
    },
}

impl NetError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            NetError::Missing { .. } | NetError::NotTap { .. } | NetError::Fd { .. } => {
                Class::Usage
            }
            NetError::NotPermitted { .. }
            | NetError::InUse { .. }
            | NetError::NoDevice { .. }
            | NetError::Other { .. } => Class::Host,
        }
    }
}

/// The host's side of a network card.
#[derive(Debug)]
pub struct Card {
    /// The interface. A card has a duplicate, as the guest may reboot.
    pub tap: Tap,
    /// The guest's hardware address.
    pub mac: Mac,
    /// The maximum transmission unit for the guest, if it is known.
    pub mtu: Option<u16>,
}

impl Card {
    /// Opens the interface of `config`.
    ///
    /// # Errors
    /// It does not exist, is not a tap interface, or must not be used.
    pub(crate) fn open(config: &config::Net) -> Result<Card, Error> {
        let tap = match (&config.tap, config.fd) {
            (_, Some(fd)) => Tap::from_number(fd).map_err(|source| NetError::Fd { fd, source })?,
            (name, None) => named(name.as_deref().unwrap_or_default())?,
        };
        let tap = if config.offload_off {
            tap.without_offloads()
        } else {
            tap
        };
        // A descriptor may be of an interface in another network namespace, where the same name may
        // be another interface's.
        let known = match config.fd {
            Some(_) => None,
            None => tap::interface(tap.name()).ok().flatten(),
        };
        if known.is_some_and(|it| !it.up) {
            let name = tap.name();
            warn!(
                "{}: interface {name} is down, so nothing passes: sudo ip link set {name} up",
                config.label()
            );
        }
        let mac = config.mac.map_or_else(|| derived(tap.name()), Mac);
        let mtu = config.mtu.or_else(|| known.map(|it| it.mtu));
        Ok(Card { tap, mac, mtu })
    }

    /// Creates the device.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub(crate) fn device(&self) -> io::Result<Net> {
        Ok(Net::new(self.tap.try_clone()?, self.mac, self.mtu))
    }
}

fn named(name: &str) -> Result<Tap, Error> {
    let missing = tap::interface(name).is_ok_and(|found| found.is_none());
    let name = name.to_owned();
    // TUNSETIFF would make a new one.
    if missing {
        return Err(Error::from(NetError::Missing { name }));
    }
    Tap::open(&name).map_err(|source| {
        Error::from(match source.raw_os_error() {
            Some(libc::EPERM) => NetError::NotPermitted { name },
            Some(libc::EBUSY) => NetError::InUse { name },
            Some(libc::EINVAL) => NetError::NotTap { name },
            Some(libc::ENOENT | libc::EACCES | libc::ENODEV | libc::ENXIO) => {
                NetError::NoDevice { name, source }
            }
            _ => NetError::Other { name, source },
        })
    })
}

/// A locally administered address that is the same in each run, and another one for another
/// interface or host.
fn derived(name: &str) -> Mac {
    // machine-id(5). Without it, hosts of one network may get the same addresses.
    let host = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hash = XxHash64::oneshot(0, format!("{}\0{name}", host.trim()).as_bytes());
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    Mac([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_stable_local_and_differ() {
        let addresses = ["vm0", "vm1", "tap-a"].map(derived);
        assert_eq!(addresses, ["vm0", "vm1", "tap-a"].map(derived));
        assert!(addresses.iter().all(|Mac([first, ..])| *first == 0x02));
        assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    }

    #[test]
    fn what_is_not_a_tap_interface_is_named() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&null);
        for (fd, cause) in [(fd, "Inappropriate ioctl"), (999, "Bad file descriptor")] {
            let net = config::Net { fd: Some(fd), ..Default::default() };
            let error = Card::open(&net).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.chain();
            assert!(
                text.starts_with(&format!(
                    "--net fd={fd}: it is not a tap interface: {cause}"
                )),
                "{text}"
            );
        }
        let net = config::Net { tap: Some("no-such-tap".into()), ..Default::default() };
        let error = Card::open(&net).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("ip tuntap add dev no-such-tap"),
            "{error}"
        );
    }
}
