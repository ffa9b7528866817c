//! Back ends of the guest's consoles, and the ports of the virtio console.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use devices::console::NAME_MAX;
use serde::{Deserialize, Serialize};

use super::keys::split_at_single_commas;

/// The expected form of a port, for messages.
const FORM: &str = "expected name=NAME,target=pty|file:PATH|socket:PATH|null";

/// A back end, named by `--console`, `--serial` or the target of `--port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Stdin and stdout.
    #[default]
    Stdio,
    /// A new pseudo-terminal.
    Pty,
    /// A file, truncated when it is opened.
    File(PathBuf),
    /// A listening Unix socket.
    Socket(PathBuf),
    /// None.
    Null,
}

impl Target {
    /// Parses `stdio`, `pty`, `file:PATH`, `socket:PATH` or `null`.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(text: &OsStr) -> Result<Target, String> {
        let bytes = text.as_bytes();
        let path = |prefix: &[u8]| bytes.strip_prefix(prefix).map(OsStr::from_bytes);
        match bytes {
            b"stdio" => return Ok(Target::Stdio),
            b"pty" => return Ok(Target::Pty),
            b"null" => return Ok(Target::Null),
            b"file:" | b"socket:" => return Err("the path is missing after the colon".to_owned()),
            _ => {}
        }
        match (path(b"file:"), path(b"socket:")) {
            (Some(path), _) => Ok(Target::File(path.into())),
            (_, Some(path)) => Ok(Target::Socket(path.into())),
            _ => Err("expected stdio, pty, file:PATH, socket:PATH or null".to_owned()),
        }
    }

    /// Whether two consoles cannot share this back end.
    pub(crate) fn conflicts(&self, other: &Target) -> bool {
        matches!(self, Target::File(_) | Target::Socket(_)) && self == other
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stdio => out.write_str("stdio"),
            Target::Pty => out.write_str("pty"),
            Target::Null => out.write_str("null"),
            Target::File(path) => write!(out, "file:{}", path.display()),
            Target::Socket(path) => write!(out, "socket:{}", path.display()),
        }
    }
}

/// A named port of the virtio console: `--port name=NAME,target=TARGET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Port {
    /// The name by which programs in the guest find it: 1 to 64 visible ASCII characters without a
    /// slash.
    pub name: String,
    /// Its back end. Not the terminal, which belongs to the consoles.
    pub target: Target,
}

impl Port {
    /// Parses `name=NAME,target=TARGET`. A doubled comma is a comma in a value.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Port, String> {
        let (mut name, mut target) = (None, None);
        for part in split_at_single_commas(text) {
            let twice = |key: &str| Err(format!("{key} is given twice"));
            let value = |key: &[u8]| part.as_bytes().strip_prefix(key).map(OsStr::from_bytes);
            match (value(b"name="), value(b"target=")) {
                (Some(_), _) if name.is_some() => return twice("name"),
                (Some(value), _) => name = Some(unicode(value)?),
                (_, Some(_)) if target.is_some() => return twice("target"),
                (_, Some(value)) => target = Some(Target::parse(value)?),
                (None, None) => return Err(format!("unknown key {part:?}, {FORM}")),
            }
        }
        let port = match (name, target) {
            (Some(name), Some(target)) => Port { name, target },
            (None, _) => return Err(format!("the name is missing, {FORM}")),
            (_, None) => return Err(format!("the target is missing, {FORM}")),
        };
        port.check()?;
        Ok(port)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    pub fn check(&self) -> Result<(), String> {
        // Linux creates a file of this name in sysfs and /dev.
        let good = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        let length = (1..=NAME_MAX).contains(&self.name.len());
        if !length || !self.name.bytes().all(good) {
            return Err(invalid(OsStr::new(&self.name)));
        }
        match self.target {
            Target::Stdio => Err(format!("stdio is the consoles', {FORM}")),
            _ => Ok(()),
        }
    }

    /// Returns the option as the user knows it.
    pub(crate) fn label(&self) -> String {
        format!("--port {}", self.name)
    }
}

fn unicode(name: &OsStr) -> Result<String, String> {
    name.to_str()
        .map(str::to_owned)
        .ok_or_else(|| invalid(name))
}

fn invalid(name: &OsStr) -> String {
    format!("name {name:?}, expected 1 to {NAME_MAX} visible ASCII characters without a slash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Port, String> {
        Port::parse(OsStr::new(text))
    }

    #[test]
    fn a_port_has_a_name_and_a_target_in_any_order() {
        let expected = Port { name: "org.example.0".into(), target: Target::File("a,b".into()) };
        for text in [
            "name=org.example.0,target=file:a,,b",
            "target=file:a,,b,name=org.example.0",
        ] {
            assert_eq!(parse(text), Ok(expected.clone()));
        }
        assert_eq!(parse("name=x,target=pty").unwrap().target, Target::Pty);
    }

    #[test]
    fn ports_that_cannot_be_are_refused_with_what_would_be_right() {
        let cases = [
            ("", "unknown key"),
            ("x", "expected name="),
            ("name=x", "target is missing"),
            ("target=pty", "name is missing"),
            ("name=x,name=y,target=pty", "given twice"),
            ("name=x,target=pty,target=null", "given twice"),
            ("name=,target=pty", "1 to 64"),
            ("name=a/b,target=pty", "without a slash"),
            ("name=a b,target=pty", "visible"),
            ("name=x,target=stdio", "the consoles'"),
            ("name=x,target=tty", "file:PATH"),
            ("name=x,target=pty,mode=rw", "unknown key"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse(&format!("name={},target=pty", "x".repeat(65))).is_err());
    }

    fn target(text: &str) -> Result<Target, String> {
        Target::parse(OsStr::new(text))
    }

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in ["stdio", "pty", "null", "file:a b", "socket:/run/x:y,z"] {
            assert_eq!(target(text).unwrap().to_string(), text);
        }
        assert_eq!(target("file:pty"), Ok(Target::File("pty".into())));
    }

    #[test]
    fn other_targets_are_refused_with_what_would_be_right() {
        for text in ["", "tty", "STDIO", "file", "pty:1", "unix:/x"] {
            assert!(
                target(text).unwrap_err().contains("stdio, pty, file:PATH"),
                "{text}"
            );
        }
        for text in ["file:", "socket:"] {
            assert!(
                target(text).unwrap_err().contains("path is missing"),
                "{text}"
            );
        }
    }
}
