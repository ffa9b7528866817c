//! The socket device: `--vsock [cid=N,]path=SOCK`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use devices::vsock::{CID_MAX, CID_MIN};
use serde::{Deserialize, Serialize};

use super::Devices;
use super::keys::{double_commas, split_at_single_commas};
use crate::error::Error;

const FORM: &str = "expected path=SOCK[,cid=N], or none";

/// The configuration of the socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vsock {
    /// The Unix socket to which host programs connect. Those of the host's listeners have this
    /// path, `_` and the port.
    pub path: PathBuf,
    /// The guest's context ID.
    pub cid: u32,
}

impl Vsock {
    /// Parses `path=SOCK` with `cid=N`, in any order. A doubled comma is a comma in the path.
    /// `none` is no device.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Option<Vsock>, String> {
        if text == "none" {
            return Ok(None);
        }
        let (mut path, mut cid) = (None, None);
        for part in split_at_single_commas(text) {
            let bytes = part.as_bytes();
            let twice = if let Some(value) = bytes.strip_prefix(b"path=") {
                path.replace(PathBuf::from(OsStr::from_bytes(value)))
                    .is_some()
            } else if let Some(value) = bytes.strip_prefix(b"cid=") {
                let value = String::from_utf8_lossy(value).into_owned();
                cid.replace(value).is_some()
            } else {
                return Err(format!("unknown key {:?}, {FORM}", part.to_string_lossy()));
            };
            if twice {
                return Err(format!("{:?} is given twice", part.to_string_lossy()));
            }
        }
        let path = path.ok_or(format!("no path is given, {FORM}"))?;
        let cid = match cid {
            None => CID_MIN,
            Some(text) => text.parse().map_err(|_| wrong_cid(&text, ""))?,
        };
        let vsock = Vsock { path, cid };
        vsock.check()?;
        Ok(Some(vsock))
    }

    /// Formats the value of the option.
    pub fn text(&self) -> OsString {
        let mut text = OsString::from(format!("cid={},path=", self.cid));
        text.push(double_commas(self.path.as_os_str()));
        text
    }

    /// Checks the values, and which program implements the devices.
    ///
    /// # Errors
    /// One is invalid, or QEMU would need the host's AF_VSOCK.
    pub(super) fn check_with(&self, devices: Devices) -> Result<(), Error> {
        let named = |problem| Error::Usage(format!("--vsock: {problem}"));
        if devices == Devices::Qemu {
            let problem = "QEMU has no such device of its own: leave out --devices qemu";
            return Err(named(problem.to_owned()));
        }
        self.check().map_err(named)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    pub fn check(&self) -> Result<(), String> {
        let reason = match self.cid {
            CID_MIN..=CID_MAX => "",
            0 => " is the hypervisor's",
            1 => " is for connections within the guest",
            2 => " is the host's",
            _ => " stands for any",
        };
        match reason {
            "" if self.path.as_os_str().is_empty() => Err(format!("the path is empty, {FORM}")),
            "" => Ok(()),
            reason => Err(wrong_cid(&self.cid.to_string(), reason)),
        }
    }
}

fn wrong_cid(given: &str, reason: &str) -> String {
    format!("cid {given}{reason}: expected {CID_MIN} to {CID_MAX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Vsock>, String> {
        Vsock::parse(text.as_ref())
    }

    #[test]
    fn what_is_parsed_is_formatted_the_same() {
        for text in ["cid=3,path=a", "cid=4294967294,path=/run/a,,b_1"] {
            let vsock = parse(text).unwrap().unwrap();
            assert_eq!(vsock.text(), text);
        }
        assert_eq!(parse("path=a"), parse("path=a,cid=3"));
        assert_eq!(parse("none"), Ok(None));
    }

    #[test]
    fn each_wrong_value_is_named_with_what_is_right() {
        for (text, parts) in [
            ("", ["unknown key", "path=SOCK"]),
            ("cid=3", ["no path is given", "path=SOCK"]),
            ("path=", ["is empty", "path=SOCK"]),
            ("path=a,cid=0", ["cid 0 is the hypervisor's", "expected 3"]),
            ("path=a,cid=1", ["within the guest", "expected 3"]),
            ("path=a,cid=2", ["cid 2 is the host's", "expected 3"]),
            ("path=a,cid=4294967295", ["any", "3 to 4294967294"]),
            ("path=a,cid=4294967296", ["4294967296", "to 4294967294"]),
            ("path=a,cid=x", ["cid x", "expected 3"]),
            ("path=a,path=b", ["\"path=b\"", "twice"]),
            ("path=a,port=1", ["port=1", "unknown"]),
        ] {
            let problem = parse(text).unwrap_err();
            for part in parts {
                assert!(problem.contains(part), "{text}: {problem}");
            }
        }
    }
}
