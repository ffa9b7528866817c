//! A directory of the host for the guest: `--share DIR[,tag=NAME][,readonly][,sandbox=MODE]`.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keys::{self, Key, Wrong, choice, split_at_single_commas};
use super::remote::check_tag;
use crate::error::Error;

const HELP: &str = "Share a directory of the host with the guest, by virtio-fs: it mounts it with mount -t virtiofs share0 /mnt, the next ones as share1 and so on. The program virtiofsd serves it, in a sandbox. Double a comma in DIR.";

/// The configuration of a shared directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Share {
    /// The directory.
    pub directory: PathBuf,
    /// The name by which the guest mounts it, instead of `share0`, ….
    #[serde(default)]
    pub tag: Option<String>,
    /// Whether the guest can change nothing.
    #[serde(default)]
    pub readonly: bool,
    /// How virtiofsd confines itself.
    #[serde(default)]
    pub sandbox: ShareSandbox,
}

/// How virtiofsd confines itself to the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareSandbox {
    /// By namespaces, whose root is the directory.
    #[default]
    Namespace,
    /// By chroot(2), which only root can.
    Chroot,
    /// Not at all.
    None,
}

impl ShareSandbox {
    /// Its name, also for virtiofsd.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ShareSandbox::Namespace => "namespace",
            ShareSandbox::Chroot => "chroot",
            ShareSandbox::None => "none",
        }
    }
}

/// The keys. A new one needs a field above, a row here, and code that uses it. No other program
/// gets them, so they have no text.
const KEYS: [Key<Share>; 3] = [
    Key {
        form: "tag=NAME",
        help: "tag= is another name to mount it by.",
        set: |share, value| {
            share.tag = Some(value.ok_or(Wrong::Form)?.into());
            Ok(())
        },
        text: |_| None,
    },
    Key {
        form: "readonly",
        help: "With readonly the guest can change nothing.",
        set: |share, value| {
            share.readonly = true;
            value.map_or(Ok(()), |_| Err(Wrong::Form))
        },
        text: |_| None,
    },
    Key {
        form: "sandbox=namespace|chroot|none",
        help: "sandbox= is how virtiofsd confines itself (default: namespace).",
        set: |share, value| {
            use ShareSandbox::{Chroot, Namespace, None};
            share.sandbox = choice(value, [Namespace, Chroot, None].map(|it| (it.name(), it)))?;
            Ok(())
        },
        text: |_| None,
    },
];

impl Share {
    /// Parses `DIR[,KEY[=VALUE]]…`. A doubled comma is a comma in a part.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<Share, String> {
        let mut parts = split_at_single_commas(text).into_iter();
        let mut share =
            Share { directory: parts.next().unwrap_or_default().into(), ..Share::default() };
        keys::set(&KEYS, &mut share, parts)?;
        share.check()?;
        Ok(share)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// One is invalid. The message says what is expected.
    fn check(&self) -> Result<(), String> {
        if self.directory.as_os_str().is_empty() {
            return Err("no directory is given, expected DIR[,tag=NAME][,readonly]".into());
        }
        self.tag.as_deref().map_or(Ok(()), check_tag)
    }

    /// Describes it and its keys for `--help`.
    pub fn help() -> String {
        format!("{HELP} {}", keys::help(&KEYS))
    }

    /// The name by which the guest mounts the share `index` of its machine.
    pub(crate) fn tag(&self, index: usize) -> String {
        self.tag.clone().unwrap_or_else(|| format!("share{index}"))
    }
}

/// Checks the shares of a machine, and that each has a name of its own.
pub(super) fn check_all(shares: &[Share]) -> Result<(), Error> {
    let mut tags: Vec<String> = Vec::new();
    for (index, share) in shares.iter().enumerate() {
        let directory = share.directory.display();
        let named = |problem| Error::Usage(format!("--share {directory}: {problem}"));
        share.check().map_err(named)?;
        let tag = share.tag(index);
        if tags.contains(&tag) {
            return Err(named(format!(
                "tag {tag:?} is given twice: expected another one"
            )));
        }
        tags.push(tag);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_its_keys_are_read() {
        let share = Share::parse("/srv/a,,b,readonly,tag=data,sandbox=none".as_ref()).unwrap();
        assert_eq!(share.directory, PathBuf::from("/srv/a,b"));
        assert_eq!((share.readonly, share.tag(3).as_str()), (true, "data"));
        assert_eq!(share.sandbox, ShareSandbox::None);
        assert_eq!(Share::parse("d".as_ref()).unwrap().tag(3), "share3");
    }

    #[test]
    fn each_wrong_value_is_named_with_what_is_right() {
        for (text, parts) in [
            ("", ["no directory", "expected DIR"]),
            ("d,rw", ["unknown key \"rw\"", "readonly"]),
            ("d,readonly=on", ["unknown key \"readonly=on\"", "readonly"]),
            ("d,tag=", ["has 0 bytes", "1 to 36"]),
            ("d,sandbox=jail", ["\"jail\"", "namespace|chroot|none"]),
        ] {
            let problem = Share::parse(text.as_ref()).unwrap_err();
            for part in parts {
                assert!(problem.contains(part), "{text}: {problem}");
            }
        }
        let twice = ["a,tag=x", "b,tag=x"].map(|text| Share::parse(text.as_ref()).unwrap());
        let error = check_all(&twice).unwrap_err().to_string();
        assert!(
            error.contains("--share b: tag \"x\" is given twice"),
            "{error}"
        );
    }
}
