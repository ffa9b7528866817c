//! A port of the host that is forwarded to the guest: `[udp:][ADDRESS/]PORT:PORT`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A forwarded port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Forward {
    /// UDP instead of TCP.
    #[serde(default)]
    pub udp: bool,
    /// The address of the host, instead of all.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The port of the host.
    pub host: u16,
    /// The port of the guest.
    pub guest: u16,
}

impl Forward {
    /// Parses its text form.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &str) -> Result<Forward, String> {
        Forward::parsed(text).ok_or_else(|| {
            format!(
                "forward cannot be {text:?}: expected ports such as 2222:22 (the host's, then the guest's), \
                 127.0.0.1/2222:22 or udp:5353:53"
            )
        })
    }

    fn parsed(text: &str) -> Option<Forward> {
        let (udp, rest) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("tcp:").unwrap_or(text)),
        };
        let (address, ports) = match rest.rsplit_once('/') {
            Some((address, ports)) => {
                let bare = address
                    .strip_prefix('[')
                    .and_then(|it| it.strip_suffix(']'));
                (Some(bare.unwrap_or(address).parse().ok()?), ports)
            }
            None => (None, rest),
        };
        let (host, guest) = ports.split_once(':')?;
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        Some(Forward { udp, address, host: port(host)?, guest: port(guest)? })
    }

    /// The port as an option of passt: which one, and its value.
    pub(crate) fn for_passt(&self) -> [String; 2] {
        let option = if self.udp {
            "--udp-ports"
        } else {
            "--tcp-ports"
        };
        let address = self.address.map_or(String::new(), |it| format!("{it}/"));
        [
            option.to_owned(),
            format!("{address}{}:{}", self.host, self.guest),
        ]
    }

    /// The port as a key of QEMU's user network.
    pub(crate) fn for_qemu(&self) -> String {
        let protocol = if self.udp { "udp" } else { "tcp" };
        let address = match self.address {
            None => String::new(),
            Some(IpAddr::V6(it)) => format!("[{it}]"),
            Some(it) => it.to_string(),
        };
        format!("hostfwd={protocol}:{address}:{}-:{}", self.host, self.guest)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.udp {
            out.write_str("udp:")?;
        }
        match self.address {
            None => {}
            Some(IpAddr::V6(it)) => write!(out, "[{it}]/")?,
            Some(it) => write!(out, "{it}/")?,
        }
        write!(out, "{}:{}", self.host, self.guest)
    }
}
