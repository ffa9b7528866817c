//! `--port`: a named port of the virtio console.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use devices::console::NAME_MAX;

use super::split_at_single_commas;
use crate::port::Target;

/// What is expected, for messages.
const FORM: &str = "expected name=NAME,target=pty|file:PATH|socket:PATH|null";

/// One `--port` as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOption {
    /// By what programs in the guest find it: 1 to 64 visible ASCII characters without a slash.
    pub name: String,
    /// What it leads to: not the terminal, which is the consoles'.
    pub target: Target,
}

impl PortOption {
    /// Reads `name=NAME,target=TARGET`, a doubled comma being one that belongs to a value.
    pub(super) fn parse(text: &OsStr) -> Result<PortOption, String> {
        let (mut name, mut target) = (None, None);
        for part in split_at_single_commas(text.as_bytes()) {
            let twice = |key: &str| Err(format!("{key} is given twice"));
            let value = |key: &[u8]| part.as_bytes().strip_prefix(key).map(OsStr::from_bytes);
            match (value(b"name="), value(b"target=")) {
                (Some(_), _) if name.is_some() => return twice("name"),
                (Some(value), _) => name = Some(check_name(value)?),
                (_, Some(_)) if target.is_some() => return twice("target"),
                (_, Some(value)) => target = Some(check_target(value)?),
                (None, None) => return Err(format!("unknown key {part:?}, {FORM}")),
            }
        }
        match (name, target) {
            (Some(name), Some(target)) => Ok(PortOption { name, target }),
            (None, _) => Err(format!("the name is missing, {FORM}")),
            (_, None) => Err(format!("the target is missing, {FORM}")),
        }
    }

    /// The option, as the user would know it again.
    pub(crate) fn label(&self) -> String {
        format!("--port {}", self.name)
    }
}

fn check_name(name: &OsStr) -> Result<String, String> {
    // The guest makes a file of it.
    let good = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    let length = (1..=NAME_MAX).contains(&name.len());
    match name.to_str() {
        Some(text) if length && text.bytes().all(|byte| good(&byte)) => Ok(text.to_owned()),
        _ => Err(format!(
            "name {name:?}, expected 1 to {NAME_MAX} visible ASCII characters without a slash"
        )),
    }
}

fn check_target(target: &OsStr) -> Result<Target, String> {
    match Target::parse(target)? {
        Target::Stdio => Err(format!("stdio is the consoles', {FORM}")),
        target => Ok(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PortOption, String> {
        PortOption::parse(OsStr::new(text))
    }

    #[test]
    fn a_port_has_a_name_and_a_target_in_any_order() {
        let expected = PortOption {
            name: "org.example.0".into(),
            target: Target::File("a,b".into()),
        };
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
}
