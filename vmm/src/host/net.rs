//! What network cards are attached to: tap interfaces of the host, and passt.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use devices::net::rate::{Limited, Rate};
use devices::net::stream::Stream;
use devices::net::tap::{self, NotTap, Tap};
use devices::net::{BackEnd, Mac, Net, QUEUE_SIZE};
use devices::transport::remote::{Error as PeerError, Kind, Remote, Source, kernel};
use log::warn;
use twox_hash::XxHash64;

use crate::config;
use crate::error::{Class, Error};
use crate::host::remote;

mod passt;

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

    #[error(
        "{label},vhost=on: cannot open {}; it needs the module vhost_net (sudo modprobe vhost_net) and access to the file",
        kernel::DEVICE
    )]
    Vhost {
        label: String,
        #[source]
        source: io::Error,
    },

    #[error(
        "--net passt: no {} found: install it (Debian: apt-get install passt), or set HARTVISOR_PASST",
        program.display()
    )]
    NoPasst { program: PathBuf },

    #[error("--net passt: {} does not start ({status}): {said}", program.display())]
    Passt { program: PathBuf, status: String, said: String },

    #[error("--net passt={}: cannot connect to a passt there", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
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
            | NetError::Other { .. }
            | NetError::Vhost { .. }
            | NetError::NoPasst { .. }
            | NetError::Passt { .. }
            | NetError::Socket { .. } => Class::Host,
        }
    }
}

/// The host's side of a network card.
#[derive(Debug)]
pub struct Card {
    config: config::Net,
    cable: Cable,
    /// The connection to what serves the queues, if this process does not.
    remote: OnceLock<Arc<Remote>>,
    /// The guest's hardware address.
    pub mac: Mac,
    /// The maximum transmission unit for the guest, if it is known.
    pub mtu: Option<u16>,
    /// What the guest may receive, and send.
    limits: [Rate; 2],
    up: bool,
}

/// What a card is attached to. It is kept while the guest reboots.
#[derive(Debug)]
enum Cable {
    Tap(Tap),
    Stream(Stream),
    /// A passt that is started when the guest is.
    Passt(config::Net, OnceLock<Stream>),
    /// A passt that serves the queues. It is connected when the guest starts.
    VhostUser,
}

impl Card {
    /// Opens what the card `index` of a machine is attached to.
    ///
    /// # Errors
    /// It does not exist, is something else, or must not be used.
    pub(crate) fn open(config: &config::Net, index: usize) -> Result<Card, Error> {
        let cable = Cable::open(config)?;
        let (name, known) = match &cable {
            // A descriptor may be of an interface in another network namespace, where the same name
            // may be another interface's.
            Cable::Tap(tap) if config.fd.is_some() => (tap.name().to_owned(), None),
            Cable::Tap(tap) => {
                let known = tap::interface(tap.name()).ok().flatten();
                (tap.name().to_owned(), known)
            }
            _ => (format!("passt{index}"), None),
        };
        let up = known.is_none_or(|it| it.up);
        if !up {
            warn!(
                "{}: interface {name} is down, so nothing passes: sudo ip link set {name} up",
                config.label()
            );
        }
        let limits = [
            Rate { bytes: config.rx_rate, frames: config.rx_packets },
            Rate { bytes: config.tx_rate, frames: config.tx_packets },
        ];
        let mac = config.mac.map_or_else(|| derived(&name), Mac);
        let mtu = config.mtu.or_else(|| known.map(|it| it.mtu));
        let (config, remote) = (config.clone(), OnceLock::new());
        Ok(Card { config, cable, remote, mac, mtu, limits, up })
    }

    /// Creates the device.
    ///
    /// # Errors
    /// The host has no file descriptor left, or passt does not start.
    pub(crate) fn device(&self) -> Result<Net, Error> {
        let full = || Error::host("open another descriptor of a network card");
        let back_end: Box<dyn BackEnd> = match &self.cable {
            Cable::Tap(tap) => Box::new(tap.try_clone().map_err(full())?),
            Cable::Stream(stream) => Box::new(stream.clone()),
            Cable::Passt(config, started) => Box::new(running(config, started)?.clone()),
            Cable::VhostUser => {
                return Err(Error::Internal("passt serves this card".into()));
            }
        };
        let [receive, send] = self.limits;
        let back_end = match self.limits == [Rate::default(); 2] {
            true => back_end,
            false => Box::new(Limited::new(back_end, receive, send).map_err(full())?),
        };
        Ok(Net::new(back_end, self.mac, self.mtu, self.up))
    }

    /// The connection to what serves the queues of the card `name`, if this process does not: passt
    /// or the kernel.
    ///
    /// # Errors
    /// passt does not start or cannot be used, or there is no vhost-net.
    pub(crate) fn remote(&self, name: &str) -> Option<Result<Arc<Remote>, Error>> {
        let config = &self.config;
        let kind = Kind::net(QUEUE_SIZE, self.mac, self.mtu, !config.offload_off);
        let served = config.vhost || config.vhost_user;
        let connect = || {
            let source = match (&self.cable, config.socket()) {
                (Cable::Tap(tap), _) => {
                    let full = Error::host("open another descriptor of a network card");
                    Source::Kernel(tap.try_clone().map_err(full)?)
                }
                (_, Some(path)) => remote::again(path),
                (_, None) => Source::Once(passt::start(config)?),
            };
            let label = config.label();
            Remote::connect(name, kind, source).map_err(|source| match source {
                PeerError::Connect(source) if config.vhost => {
                    Error::from(NetError::Vhost { label, source })
                }
                source => remote::not_usable(label, source),
            })
        };
        served.then(|| remote::connected(&self.remote, connect))
    }

    /// Returns the descriptor for a QEMU that is started.
    ///
    /// # Errors
    /// passt does not start.
    pub(crate) fn lend(&self) -> Result<BorrowedFd<'_>, Error> {
        Ok(match &self.cable {
            Cable::Tap(tap) => tap.as_fd(),
            Cable::Stream(stream) => stream.as_fd(),
            Cable::Passt(config, started) => running(config, started)?.as_fd(),
            Cable::VhostUser => {
                return Err(Error::Internal("passt serves this card".into()));
            }
        })
    }

    /// Describes it for the log.
    pub(crate) fn describe(&self) -> String {
        match &self.cable {
            Cable::Tap(tap) => format!("tap {}", tap.name()),
            _ => "passt".to_owned(),
        }
    }
}

impl Cable {
    fn open(config: &config::Net) -> Result<Cable, Error> {
        let tap = match (&config.tap, config.fd, &config.passt) {
            (Some(name), ..) => named(name)?,
            (_, Some(fd), _) => {
                Tap::from_number(fd).map_err(|source| NetError::Fd { fd, source })?
            }
            _ if config.vhost_user => return Ok(Cable::VhostUser),
            _ if let Some(path) = config.socket() => {
                return passt::connect(path).and_then(stream).map(Cable::Stream);
            }
            _ => return Ok(Cable::Passt(config.clone(), OnceLock::new())),
        };
        Ok(Cable::Tap(match config.offload_off {
            true => tap.without_offloads(),
            false => tap,
        }))
    }
}

/// The ways to a network, for `hartvisor check`: what this host has, or why it cannot be used.
pub(crate) fn ways() -> [(&'static str, Result<String, Error>); 2] {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(tap::DEVICE);
    let tap = device.map(|_| format!("{} can be opened", tap::DEVICE));
    let failed = Error::host("open /dev/net/tun; it needs the module tun and access to the file");
    [("tap", tap.map_err(failed)), ("passt", passt::version())]
}

/// Starts passt, once.
fn running<'s>(config: &config::Net, started: &'s OnceLock<Stream>) -> Result<&'s Stream, Error> {
    if let Some(stream) = started.get() {
        return Ok(stream);
    }
    let stream = passt::start(config).and_then(stream)?;
    Ok(started.get_or_init(|| stream))
}

fn stream(socket: UnixStream) -> Result<Stream, Error> {
    Stream::new(socket).map_err(Error::host("use a socket"))
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
pub(super) fn derived(name: &str) -> Mac {
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
            let error = Card::open(&net, 0).unwrap_err();
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
        let error = Card::open(&net, 0).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("ip tuntap add dev no-such-tap"),
            "{error}"
        );
    }
}
