//! A network card: `--net tap=NAME|fd=N|passt[=SOCKET][,KEY=VALUE]…`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use devices::net::Mac;
use devices::net::tap::NAME_MAX;
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, SWITCH, Wrong, choice, split_at_single_commas};
use crate::error::Error;
use crate::size;

mod forward;

pub use forward::Forward;

/// The smallest maximum transmission unit (§ 5.1.4.1).
const MTU_MIN: u16 = 68;

const HELP: &str = "A network card that is attached to an existing tap interface of the host, to the descriptor of one, or to passt. Up to 26 times, less the disks. none is no card.";

const FORM: &str = "expected tap=NAME, fd=N, passt or passt=SOCKET, or none";

/// The configuration of a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Net {
    /// The tap interface to attach to.
    #[serde(default)]
    pub tap: Option<String>,
    /// Or the descriptor of a tap interface that this process has inherited.
    #[serde(default)]
    pub fd: Option<i32>,
    /// Or the socket of a passt. An empty path: one of its own is started.
    #[serde(default)]
    pub passt: Option<PathBuf>,
    /// Ports of the host that its passt forwards to the guest.
    #[serde(default)]
    pub forward: Vec<Forward>,
    /// Whether the host's kernel serves the queues, by vhost-net.
    #[serde(default)]
    pub vhost: bool,
    /// Whether passt serves the queues itself, over vhost-user.
    #[serde(default)]
    pub vhost_user: bool,
    /// The hardware address, instead of one derived from this host and the interface's name.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// The maximum transmission unit for the guest, instead of the interface's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Whether the guest must compute checksums and cut segments itself.
    #[serde(default)]
    pub offload_off: bool,
    /// The most bytes per second that the guest receives.
    #[serde(default)]
    pub rx_rate: Option<u64>,
    /// The most bytes per second that the guest sends.
    #[serde(default)]
    pub tx_rate: Option<u64>,
    /// The most frames per second that the guest receives.
    #[serde(default)]
    pub rx_packets: Option<u64>,
    /// The most frames per second that the guest sends.
    #[serde(default)]
    pub tx_packets: Option<u64>,
}

/// The keys. A new one needs a field above, a row here, and code that uses it.
const KEYS: [Key<Net>; 13] = [
    Key {
        form: "tap=NAME",
        help: "",
        set: |net, value| {
            net.tap = Some(value.ok_or(Wrong::Form)?.into());
            Ok(())
        },
        text: |net| Some(format!("tap={}", net.tap.as_deref()?)),
    },
    Key {
        form: "fd=N",
        help: "",
        set: |net, value| {
            let text = value.ok_or(Wrong::Form)?;
            net.fd = Some(text.parse().map_err(|_| Wrong::Value)?);
            Ok(())
        },
        text: |net| Some(format!("fd={}", net.fd?)),
    },
    Key {
        form: "passt[=SOCKET]",
        help: "passt gives the guest the host's network without root: an address by DHCP, and connections to where the host \
               can connect. It starts the program passt; passt=SOCKET uses a running passt.",
        set: |net, value| {
            net.passt = Some(value.unwrap_or_default().into());
            if value == Some("") {
                return Err(Wrong::Form);
            }
            Ok(())
        },
        text: |net| {
            let socket = net.passt.as_deref()?.display().to_string();
            Some(match socket.as_str() {
                "" => "passt".to_owned(),
                socket => format!("passt={socket}"),
            })
        },
    },
    Key {
        form: "forward=PORT:PORT[+…]",
        help: "forward=2222:22 forwards port 2222 of the host to port 22 of the guest (with passt); \
               forward=127.0.0.1/2222:22+udp:5353:53 two of them, the first one from a local address only.",
        set: |net, value| {
            let ports = value.ok_or(Wrong::Form)?.split('+').map(Forward::parse);
            net.forward = ports.collect::<Result<_, _>>().map_err(Wrong::Because)?;
            Ok(())
        },
        text: |net| {
            let ports: Vec<_> = net.forward.iter().map(Forward::to_string).collect();
            (!ports.is_empty()).then(|| format!("forward={}", ports.join("+")))
        },
    },
    Key {
        form: "vhost=on|off",
        help: "vhost=on (with tap= or fd=) has the host's kernel serve the card's queues (vhost-net).",
        set: |net, value| {
            net.vhost = choice(value, SWITCH)?;
            Ok(())
        },
        text: |net| net.vhost.then(|| "vhost=on".into()),
    },
    Key {
        form: "vhost-user=on|off",
        help: "vhost-user=on (with passt) is faster: passt serves the card's queues itself. It then maps all of the guest's memory.",
        set: |net, value| {
            net.vhost_user = choice(value, SWITCH)?;
            Ok(())
        },
        text: |net| net.vhost_user.then(|| "vhost-user=on".into()),
    },
    Key {
        form: "mac=XX:XX:XX:XX:XX:XX",
        help: "mac= is its hardware address (default: derived from this host's machine ID and the interface's name).",
        set: |net, value| {
            net.mac = Some(mac(value.ok_or(Wrong::Form)?).ok_or(Wrong::Value)?);
            Ok(())
        },
        text: |net| Some(format!("mac={}", Mac(net.mac?))),
    },
    Key {
        form: "mtu=BYTES",
        help: "mtu= is what the guest is told (default: the interface's).",
        set: |net, value| {
            let text = value.ok_or(Wrong::Form)?;
            net.mtu = Some(text.parse().map_err(|_| Wrong::Because(wrong_mtu(text)))?);
            Ok(())
        },
        text: |net| Some(format!("mtu={}", net.mtu?)),
    },
    Key {
        form: "offload=on|off",
        help: "offload=off makes the guest compute all checksums and send no segment longer than the MTU.",
        set: |net, value| {
            net.offload_off = !choice(value, SWITCH)?;
            Ok(())
        },
        text: |net| net.offload_off.then(|| "offload=off".into()),
    },
    Key {
        form: "rx-rate=SIZE",
        help: "rx-rate= and tx-rate= limit what the guest receives and sends, in bytes per second (10M);",
        set: |net, value| rate(&mut net.rx_rate, value),
        text: |net| Some(format!("rx-rate={}", size::show(net.rx_rate?))),
    },
    Key {
        form: "tx-rate=SIZE",
        help: "",
        set: |net, value| rate(&mut net.tx_rate, value),
        text: |net| Some(format!("tx-rate={}", size::show(net.tx_rate?))),
    },
    Key {
        form: "rx-packets=N",
        help: "rx-packets= and tx-packets= limit the frames per second.",
        set: |net, value| packets(&mut net.rx_packets, value),
        text: |net| Some(format!("rx-packets={}", net.rx_packets?)),
    },
    Key {
        form: "tx-packets=N",
        help: "",
        set: |net, value| packets(&mut net.tx_packets, value),
        text: |net| Some(format!("tx-packets={}", net.tx_packets?)),
    },
];

impl Net {
    /// Parses `tap=NAME` or `fd=N` with further keys. `none` is no network card.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Option<Net>, String> {
        if text == "none" {
            return Ok(None);
        }
        let mut net = Net::default();
        keys::set(&KEYS, &mut net, split_at_single_commas(text))?;
        net.check()?;
        Ok(Some(net))
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    pub fn check(&self) -> Result<(), String> {
        match (&self.tap, self.fd, &self.passt) {
            (None, None, Some(_)) => {}
            (None, None, None) => return Err(format!("no interface is given, {FORM}")),
            (Some(name), None, None)
                if !(1..=NAME_MAX).contains(&name.len()) || name.contains(['/', '\0', ' ']) =>
            {
                return Err(format!(
                    "tap {name:?} cannot be the name of an interface: expected 1 to {NAME_MAX} bytes without a slash or space"
                ));
            }
            (None, Some(fd @ ..=2), None) => {
                return Err(format!(
                    "fd={fd} is not a tap interface: expected the number of an inherited descriptor, from 3 on"
                ));
            }
            (Some(_), None, None) | (None, Some(_), None) => {}
            _ => return Err("tap=, fd= and passt exclude each other: expected one of them".into()),
        }
        if !self.forward.is_empty() && !self.starts_passt() {
            return Err(
                "forward= needs passt, without a socket: a running passt has options of its own"
                    .into(),
            );
        }
        if self.vhost_user && self.passt.is_none() {
            return Err("vhost-user=on needs passt".into());
        }
        if self.vhost && self.passt.is_some() {
            return Err("vhost=on needs tap= or fd=".into());
        }
        if let (true, Some(limit)) = (self.vhost || self.vhost_user, self.limit()) {
            return Err(format!(
                "{limit} cannot be used with vhost=on or vhost-user=on: only our own card has limits"
            ));
        }
        self.mac.map_or(Ok(()), check_mac)?;
        match self.mtu {
            Some(mtu @ ..MTU_MIN) => Err(wrong_mtu(&mtu.to_string())),
            _ => Ok(()),
        }
    }

    /// Describes it and its keys for `--help`.
    pub fn help() -> String {
        format!("{HELP} {}", keys::help(&KEYS))
    }

    /// Returns the option as the user knows it.
    pub(crate) fn label(&self) -> String {
        match (&self.tap, self.fd, &self.passt) {
            (Some(name), ..) => format!("--net tap={name}"),
            (_, Some(fd), _) => format!("--net fd={fd}"),
            (_, _, Some(socket)) if !self.starts_passt() => {
                format!("--net passt={}", socket.display())
            }
            _ => "--net passt".to_owned(),
        }
    }

    /// The socket of a running passt.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.passt.as_deref().filter(|_| !self.starts_passt())
    }

    /// Whether it gets a passt of its own.
    pub(crate) fn starts_passt(&self) -> bool {
        self.passt.as_deref() == Some(Path::new(""))
    }

    /// The first of its limits that is set, as the user knows it.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        let limits = [
            ("--net rx-rate=", self.rx_rate),
            ("--net tx-rate=", self.tx_rate),
            ("--net rx-packets=", self.rx_packets),
            ("--net tx-packets=", self.tx_packets),
        ];
        let mut given = limits.into_iter().filter(|(_, limit)| limit.is_some());
        given.next().map(|(name, _)| name)
    }
}

/// Checks the cards of a machine, and that no two have the same interface or address.
pub(super) fn check_all(nets: &[Net]) -> Result<(), Error> {
    for (index, net) in nets.iter().enumerate() {
        let named = |problem| Error::Usage(format!("--net: {problem}"));
        net.check().map_err(named)?;
        let before = nets.get(..index).unwrap_or_default();
        let same = |it: &Net| (&it.tap, it.fd, &it.passt) == (&net.tap, net.fd, &net.passt);
        if !net.starts_passt() && before.iter().any(same) {
            let problem = "it is given twice: each card needs an interface of its own";
            return Err(Error::Usage(format!("{}: {problem}", net.label())));
        }
        if let Some(mac) = net
            .mac
            .filter(|mac| before.iter().any(|it| it.mac == Some(*mac)))
        {
            let problem = "is the address of two cards: expected another one";
            return Err(Error::Usage(format!("--net: mac {} {problem}", Mac(mac))));
        }
    }
    Ok(())
}

/// Checks a hardware address.
pub(super) fn check_mac(mac: [u8; 6]) -> Result<(), String> {
    match mac {
        [0, 0, 0, 0, 0, 0] => Err("mac 00:00:00:00:00:00 is no address of a card".into()),
        [first, ..] if first & 1 != 0 => Err(format!(
            "mac {} is a multicast address: expected an even first byte, such as 02",
            Mac(mac)
        )),
        _ => Ok(()),
    }
}

fn wrong_mtu(given: &str) -> String {
    format!(
        "mtu cannot be {given:?}: expected {MTU_MIN} to {}",
        u16::MAX
    )
}

fn rate(limit: &mut Option<u64>, value: Option<&str>) -> Result<(), Wrong> {
    let text = value.ok_or(Wrong::Form)?;
    let bytes = size::parse(text).ok().filter(|bytes| *bytes > 0);
    let wrong = || {
        Wrong::Because(format!(
            "a rate cannot be {text:?}: expected bytes per second, such as 10M"
        ))
    };
    *limit = Some(bytes.ok_or_else(wrong)?);
    Ok(())
}

fn packets(limit: &mut Option<u64>, value: Option<&str>) -> Result<(), Wrong> {
    let text = value.ok_or(Wrong::Form)?;
    let wrong = || {
        Wrong::Because(format!(
            "a number of packets cannot be {text:?}: expected packets per second, such as 1000"
        ))
    };
    let count = text.parse().ok().filter(|count| *count > 0);
    *limit = Some(count.ok_or_else(wrong)?);
    Ok(())
}

pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next()?;
        let digits = part.len() == 2 && part.bytes().all(|it| it.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits)?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;
