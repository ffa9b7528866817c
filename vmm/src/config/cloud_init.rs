//! The disk for cloud-init: `--cloud-init user-data=FILE[,meta-data=FILE][,ssh-key=FILE]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keys::{double_commas, split_at_single_commas};

/// The expected form, for messages.
const FORM: &str = "expected user-data=FILE[,meta-data=FILE][,ssh-key=FILE]";

/// The files that cloud-init's disk is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CloudInit {
    /// The user data: a `#cloud-config`, a script, or another format of cloud-init.
    #[serde(default)]
    pub user_data: Option<PathBuf>,
    /// The meta data, instead of generated ones.
    #[serde(default)]
    pub meta_data: Option<PathBuf>,
    /// Public SSH keys of the image's default user, one per line.
    #[serde(default)]
    pub ssh_key: Option<PathBuf>,
}

impl CloudInit {
    /// Parses `KEY=FILE[,KEY=FILE]…`. A doubled comma is a comma in a file name.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &OsStr) -> Result<CloudInit, String> {
        let mut files = CloudInit::default();
        for part in split_at_single_commas(text) {
            let bytes = part.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=');
            let (key, file) = match at.and_then(|at| bytes.split_at_checked(at)) {
                Some((key, value)) => (key, value.get(1..).unwrap_or_default()),
                None => (bytes, [].as_slice()),
            };
            let name = String::from_utf8_lossy(key);
            let field = match key {
                b"user-data" => &mut files.user_data,
                b"meta-data" => &mut files.meta_data,
                b"ssh-key" => &mut files.ssh_key,
                _ => return Err(format!("unknown key {name:?}, {FORM}")),
            };
            if file.is_empty() {
                return Err(format!("{name} has no file, {FORM}"));
            }
            if field.replace(OsStr::from_bytes(file).into()).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        files.check()?;
        Ok(files)
    }

    /// Formats the value of the option.
    pub fn text(&self) -> OsString {
        let mut text = OsString::new();
        for (key, file) in self.files() {
            text.push(if text.is_empty() { "" } else { "," });
            text.push(format!("{key}="));
            text.push(double_commas(file.as_os_str()));
        }
        text
    }

    /// Returns the given files, with their keys.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("user-data", &self.user_data),
            ("meta-data", &self.meta_data),
            ("ssh-key", &self.ssh_key),
        ];
        let files = files.into_iter();
        files.flat_map(|(key, file)| file.iter().map(move |file| (key, file)))
    }

    /// Checks which files are given.
    ///
    /// # Errors
    /// They do not go together. The message says what is expected.
    pub fn check(&self) -> Result<(), String> {
        match (&self.user_data, &self.meta_data, &self.ssh_key) {
            (None, _, None) => Err(format!("neither user-data nor ssh-key is given, {FORM}")),
            (Some(_), Some(_), Some(_)) => Err(
                "ssh-key cannot be given together with both user-data and meta-data: add the key to ssh_authorized_keys in the user-data"
                    .into(),
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CloudInit, String> {
        CloudInit::parse(OsStr::new(text))
    }

    #[test]
    fn what_is_parsed_is_formatted_the_same() {
        for text in [
            "user-data=a",
            "ssh-key=a,,b=c",
            "user-data=a,meta-data=b",
            "user-data=a,ssh-key=b",
        ] {
            assert_eq!(parse(text).unwrap().text(), text);
        }
        let files = parse("ssh-key=k,,1,user-data=u").unwrap();
        let files: Vec<_> = files.files().collect();
        let (user, key) = (PathBuf::from("u"), PathBuf::from("k,1"));
        assert_eq!(files, [("user-data", &user), ("ssh-key", &key)]);
    }

    #[test]
    fn a_file_name_need_not_be_unicode() {
        let files = CloudInit::parse(OsStr::from_bytes(b"user-data=\xff")).unwrap();
        assert_eq!(files.text(), OsStr::from_bytes(b"user-data=\xff"));
    }

    #[test]
    fn other_values_are_refused_with_what_is_expected() {
        for (text, part) in [
            ("", "unknown key \"\", expected user-data=FILE"),
            ("seed.yaml", "unknown key \"seed.yaml\""),
            ("user-data", "user-data has no file"),
            ("user-data=", "user-data has no file"),
            ("user-data=a,user-data=b", "given twice"),
            ("meta-data=a", "neither user-data nor ssh-key"),
            ("user-data=a,vendor-data=b", "unknown key \"vendor-data\""),
            ("user-data=a,meta-data=b,ssh-key=c", "ssh_authorized_keys"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
