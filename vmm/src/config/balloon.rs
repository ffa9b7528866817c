//! The memory balloon: `--balloon [KEY=VALUE,…]`.

use std::ffi::OsStr;
use std::path::PathBuf;

use devices::balloon::PAGE;
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, SWITCH, Wrong, choice, split_at_single_commas};
use super::{HugePages, Memory};
use crate::error::Error;
use crate::size;

const HELP: &str = "Add a memory balloon, through which the guest gives memory back to the host: what it frees, and what the host asks for.";

/// The configuration of a memory balloon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Balloon {
    /// The bytes that the guest should give up.
    #[serde(default)]
    pub size: u64,
    /// Or a file that contains them, as text.
    #[serde(default)]
    pub size_file: Option<PathBuf>,
    /// Whether the guest may take pages back when it has no other memory.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// Whether the guest reports its free pages. By default it does unless its RAM is huge pages.
    #[serde(default)]
    pub free_page_reporting: Option<bool>,
}

/// The keys. A new one needs a field above, a row here, and code that uses it. No other program
/// gets them, so they have no text.
const KEYS: [Key<Balloon>; 4] = [
    Key {
        form: "size=SIZE",
        help: "size= is the memory that the guest should give up (default: 0).",
        set: |balloon, value| {
            let text = value.ok_or(Wrong::Form)?;
            let wrong = |problem| Wrong::Because(format!("size {text:?}: {problem}"));
            balloon.size = size::parse(text).map_err(wrong)?;
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "size-file=FILE",
        help: "size-file= is a file with that size, read at the start and on SIGUSR2.",
        set: |balloon, value| {
            balloon.size_file = Some(value.ok_or(Wrong::Form)?.into());
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "deflate-on-oom=on|off",
        help: "deflate-on-oom=on lets the guest take memory back when it has no other (default: off).",
        set: |balloon, value| {
            // QEMU and Firecracker expect a value; a flag is as clear.
            balloon.deflate_on_oom = value.is_none() || choice(value, SWITCH)?;
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "free-page-reporting=on|off",
        help: "With free-page-reporting=on (the default without hugepages) memory that the guest frees goes back to the host within seconds, without a size.",
        set: |balloon, value| {
            balloon.free_page_reporting = Some(choice(value, SWITCH)?);
            Ok(())
        },
        text: |_| None,
    },
];

impl Balloon {
    /// Parses `KEY=VALUE,…`, which may be empty.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Balloon, String> {
        let mut balloon = Balloon::default();
        if !text.is_empty() {
            keys::set(&KEYS, &mut balloon, split_at_single_commas(text))?;
        }
        Ok(balloon)
    }

    fn check(&self, memory: &Memory) -> Result<(), String> {
        match &self.size_file {
            Some(file) if file.as_os_str().is_empty() => {
                Err("size-file has no file, expected size-file=FILE".into())
            }
            Some(_) if self.size > 0 => {
                Err("size= and size-file= are both given: they exclude each other".into())
            }
            _ => check_size(self.size, memory),
        }
    }

    /// Whether the guest reports its free pages. A huge page that went back to its pool may be gone
    /// when the guest needs it, which would end the guest. So this must be asked for.
    pub(crate) fn reports(&self, memory: &Memory) -> bool {
        let ordinary = memory.hugepages == HugePages::Off;
        self.free_page_reporting.unwrap_or(ordinary)
    }

    /// Describes it and its keys for `--help`.
    pub fn help() -> String {
        format!("{HELP} {}", keys::help(&KEYS))
    }
}

/// Checks the balloon of a machine with this RAM.
pub(super) fn check(balloon: Option<&Balloon>, memory: &Memory) -> Result<(), Error> {
    let named = |problem| Error::Usage(format!("--balloon: {problem}"));
    balloon.map_or(Ok(()), |balloon| balloon.check(memory).map_err(named))
}

/// Checks the number of bytes that a guest with this RAM should give up.
///
/// # Errors
/// A message that says what is expected.
pub(crate) fn check_size(size: u64, memory: &Memory) -> Result<(), String> {
    let shown = size::show(size);
    if size >= memory.size {
        let limit = size::show(memory.size);
        return Err(format!(
            "size {shown:?}: expected less than the guest's RAM, {limit}"
        ));
    }
    match size.is_multiple_of(PAGE) {
        true => Ok(()),
        false => Err(format!(
            "size {shown:?}: expected a multiple of {}",
            size::show(PAGE)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;

    fn problem(text: &str) -> Option<String> {
        let parsed = Balloon::parse(text.as_ref());
        parsed
            .and_then(|it| it.check(&Memory::new(256 * MIB)))
            .err()
    }

    #[test]
    fn huge_pages_are_reported_only_if_asked_for() {
        let ordinary = Memory::new(256 << 20);
        let huge = Memory { hugepages: HugePages::On, ..ordinary };
        for (text, expected) in [
            ("", [true, false]),
            ("free-page-reporting=on", [true, true]),
            ("free-page-reporting=off", [false, false]),
        ] {
            let balloon = Balloon::parse(text.as_ref()).unwrap();
            assert_eq!(
                [&ordinary, &huge].map(|it| balloon.reports(it)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn each_key_sets_its_value_and_none_is_needed() {
        let parse = |text: &str| Balloon::parse(text.as_ref()).unwrap();
        assert_eq!(parse(""), Balloon::default());
        let balloon = parse("size=64M,deflate-on-oom=on,free-page-reporting=off");
        assert_eq!(balloon.size, 64 * MIB);
        assert!(balloon.deflate_on_oom && balloon.free_page_reporting == Some(false));
        let balloon = parse("size-file=a,,b,deflate-on-oom,free-page-reporting=on");
        assert_eq!(balloon.size_file, Some("a,b".into()));
        assert!(balloon.deflate_on_oom && balloon.free_page_reporting == Some(true));
        assert_eq!(problem("size=64M"), None);
    }

    #[test]
    fn each_wrong_value_is_named_with_what_is_right() {
        for (text, parts) in [
            ("size=1X", ["size \"1X\"", "such as 256M"]),
            (
                "size=256M",
                ["size \"256M\"", "less than the guest's RAM, 256M"],
            ),
            ("size=4097", ["size \"4097\"", "a multiple of 4K"]),
            ("size", ["unknown key \"size\"", "size=SIZE"]),
            ("size=1M,size-file=a", ["both given", "exclude"]),
            ("size-file=", ["no file", "size-file=FILE"]),
            ("deflate-on-oom=yes", ["\"yes\"", "deflate-on-oom=on|off"]),
            ("free-page-reporting", ["free-page-reporting", "on|off"]),
            (
                "target=1M",
                ["unknown key \"target=1M\"", "known are size=SIZE"],
            ),
        ] {
            let problem = problem(text).unwrap();
            for part in parts {
                assert!(problem.contains(part), "{text}: {problem}");
            }
        }
    }
}
