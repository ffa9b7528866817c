//! A network card: `--net tap=NAME|fd=N[,KEY=VALUE]…`.

use std::ffi::OsStr;

use devices::net::Mac;
use devices::net::tap::NAME_MAX;
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, SWITCH, Wrong, choice, split_at_single_commas};
use crate::error::Error;

/// The smallest maximum transmission unit (§ 5.1.4.1).
const MTU_MIN: u16 = 68;

const FORM: &str = "expected tap=NAME or fd=N, with mac=, mtu= and offload= as needed, or none";

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
    /// The hardware address, instead of one derived from this host and the interface's name.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// The maximum transmission unit for the guest, instead of the interface's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Whether the guest must compute checksums and cut segments itself.
    #[serde(default)]
    pub offload_off: bool,
}

/// The keys. A new one needs a field above, a row here, and code that uses it.
const KEYS: [Key<Net>; 5] = [
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
        match (&self.tap, self.fd) {
            (Some(_), Some(_)) => {
                return Err("tap= and fd= are both given: they exclude each other".into());
            }
            (None, None) => return Err(format!("no interface is given, {FORM}")),
            (Some(name), None)
                if !(1..=NAME_MAX).contains(&name.len()) || name.contains(['/', '\0', ' ']) =>
            {
                return Err(format!(
                    "tap {name:?} cannot be the name of an interface: expected 1 to {NAME_MAX} bytes without a slash or space"
                ));
            }
            (None, Some(fd @ ..=2)) => {
                return Err(format!(
                    "fd={fd} is not a tap interface: expected the number of an inherited descriptor, from 3 on"
                ));
            }
            _ => {}
        }
        match self.mac {
            Some([0, 0, 0, 0, 0, 0]) => {
                return Err("mac 00:00:00:00:00:00 is no address of a card".into());
            }
            Some(mac @ [first, ..]) if first & 1 != 0 => {
                return Err(format!(
                    "mac {} is a multicast address: expected an even first byte, such as 02",
                    Mac(mac)
                ));
            }
            _ => {}
        }
        match self.mtu {
            Some(mtu @ ..MTU_MIN) => Err(wrong_mtu(&mtu.to_string())),
            _ => Ok(()),
        }
    }

    /// Describes its keys for `--help`.
    pub fn help() -> String {
        keys::help(&KEYS)
    }

    /// Returns the option as the user knows it.
    pub(crate) fn label(&self) -> String {
        match (&self.tap, self.fd) {
            (None, Some(fd)) => format!("--net fd={fd}"),
            (name, _) => format!("--net tap={}", name.as_deref().unwrap_or_default()),
        }
    }
}

/// Checks the cards of a machine, and that no two have the same interface or address.
pub(super) fn check_all(nets: &[Net]) -> Result<(), Error> {
    for (index, net) in nets.iter().enumerate() {
        let named = |problem| Error::Usage(format!("--net: {problem}"));
        net.check().map_err(named)?;
        let before = nets.get(..index).unwrap_or_default();
        if before
            .iter()
            .any(|it| (&it.tap, it.fd) == (&net.tap, net.fd))
        {
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

fn wrong_mtu(given: &str) -> String {
    format!(
        "mtu cannot be {given:?}: expected {MTU_MIN} to {}",
        u16::MAX
    )
}

fn mac(text: &str) -> Option<[u8; 6]> {
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
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Net>, String> {
        Net::parse(text.as_ref())
    }

    #[test]
    fn keys_are_parsed_and_printed_alike() {
        let text = "tap=vm0,mac=02:00:5e:00:00:ff,mtu=9000,offload=off";
        let net = parse(text).unwrap().unwrap();
        assert_eq!(
            (net.tap.as_deref(), net.mtu, net.offload_off),
            (Some("vm0"), Some(9000), true)
        );
        assert_eq!(net.mac, Some([2, 0, 0x5e, 0, 0, 0xff]));
        assert_eq!(keys::text(&KEYS, &net), format!(",{text}").as_str());
        assert_eq!(parse("fd=7").unwrap().unwrap().fd, Some(7));
        assert_eq!(parse("none"), Ok(None));
    }

    #[test]
    fn each_wrong_value_is_named_with_what_is_right() {
        for (text, parts) in [
            ("", ["unknown key", "tap=NAME"]),
            ("mtu=1500", ["no interface is given", "tap=NAME or fd=N"]),
            ("tap=a,fd=3", ["both given", "exclude"]),
            ("tap=", ["\"\"", "1 to 15 bytes"]),
            (
                "tap=sixteen-bytes-xx",
                ["sixteen-bytes-xx", "1 to 15 bytes"],
            ),
            ("tap=a/b", ["a/b", "slash"]),
            ("fd=1", ["fd=1", "from 3 on"]),
            ("fd=x", ["fd cannot be \"x\"", "fd=N"]),
            (
                "tap=a,mac=03:00:00:00:00:01",
                ["03:00:00:00:00:01", "multicast"],
            ),
            (
                "tap=a,mac=00:00:00:00:00:00",
                ["00:00:00:00:00:00", "no address"],
            ),
            ("tap=a,mac=2:0:0:0:0:1", ["mac cannot be", "XX:XX"]),
            ("tap=a,mac=02:00:00:00:00:00:01", ["mac cannot be", "XX:XX"]),
            ("tap=a,mtu=67", ["\"67\"", "68 to 65535"]),
            ("tap=a,mtu=65536", ["\"65536\"", "68 to 65535"]),
            ("tap=a,offload", ["offload", "on|off"]),
            ("tap=a,tap=b", ["tap is given twice", ""]),
            ("tap=a,speed=1", ["speed=1", "known are"]),
        ] {
            let problem = parse(text).unwrap_err();
            for part in parts {
                assert!(problem.contains(part), "{text}: {problem}");
            }
        }
    }
}
