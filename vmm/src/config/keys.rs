//! Values whose text form is a list: `FILE,KEY=VALUE,…`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Splits at single commas. Two consecutive commas are a comma in the part.
pub(super) fn split_at_single_commas(text: &OsStr) -> Vec<OsString> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts.into_iter().map(OsString::from_vec).collect()
}

/// The inverse: returns `value` as a part of such a list, also for QEMU.
pub fn double_commas(value: &OsStr) -> OsString {
    let doubled = value.as_bytes().iter().flat_map(|byte| match byte {
        b',' => b",,".as_slice(),
        byte => std::slice::from_ref(byte),
    });
    OsString::from_vec(doubled.copied().collect())
}

/// A key of a list, and how to parse, format and describe it.
pub(super) struct Key<T> {
    /// Its form: `readonly`, `queues=N`.
    pub(super) form: &'static str,
    /// A sentence for `--help`. Empty if the value's own help describes the key.
    pub(super) help: &'static str,
    /// Sets it to the `VALUE` of `KEY=VALUE`, if there is one.
    pub(super) set: fn(&mut T, Option<&str>) -> Result<(), Wrong>,
    /// Returns its part of the list, unless it has its default.
    pub(super) text: fn(&T) -> Option<String>,
}

/// Why a key cannot be set.
pub(super) enum Wrong {
    /// It takes no value, or requires one.
    Form,
    /// The value is invalid.
    Value,
    /// Another reason.
    Because(String),
}

/// The values of a switch.
pub(super) const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// Returns the value that the name in `value` stands for.
pub(super) fn choice<T, const N: usize>(
    value: Option<&str>,
    values: [(&str, T); N],
) -> Result<T, Wrong> {
    let given = value.ok_or(Wrong::Form)?;
    let mut values = values.into_iter();
    let found = values.find(|(name, _)| *name == given);
    found.map(|(_, value)| value).ok_or(Wrong::Value)
}

impl<T> Key<T> {
    fn name(&self) -> &'static str {
        self.form.split(['=', '[']).next().unwrap_or_default()
    }
}

/// Sets the keys of `value` from `parts`.
///
/// # Errors
/// A part is not a known key, is given twice, or has an invalid value.
pub(super) fn set<T>(
    keys: &[Key<T>],
    value: &mut T,
    parts: impl IntoIterator<Item = OsString>,
) -> Result<(), String> {
    let mut given = Vec::new();
    for part in parts {
        let part = part.to_string_lossy();
        let (name, text) = match part.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (&*part, None),
        };
        let known = || forms(keys);
        let unknown = || {
            format!(
                "unknown key {part:?}, known are {} (a comma in the file name is written twice)",
                known()
            )
        };
        let key = keys.iter().find(|key| key.name() == name);
        let key = key.ok_or_else(unknown)?;
        if given.contains(&key.name()) {
            return Err(format!("{name} is given twice"));
        }
        given.push(key.name());
        (key.set)(value, text).map_err(|wrong| match wrong {
            Wrong::Form => unknown(),
            Wrong::Value => format!(
                "{name} cannot be {:?}, known are {}",
                text.unwrap_or_default(),
                known()
            ),
            Wrong::Because(why) => why,
        })?;
    }
    Ok(())
}

/// Formats the keys of `value` that differ from their defaults, each after a comma.
pub(super) fn text<T>(keys: &[Key<T>], value: &T) -> OsString {
    let mut text = OsString::new();
    for part in keys.iter().filter_map(|key| (key.text)(value)) {
        text.push(",");
        text.push(double_commas(OsStr::new(&part)));
    }
    text
}

/// Returns the forms of the keys for messages.
fn forms<T>(keys: &[Key<T>]) -> String {
    match keys {
        [] => String::new(),
        [only] => only.form.to_owned(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|key| key.form).collect();
            format!("{} and {}", first.join(", "), last.form)
        }
    }
}

/// Describes the keys for `--help`.
pub(super) fn help<T>(keys: &[Key<T>]) -> String {
    let said = keys.iter().filter(|key| !key.help.is_empty());
    let said: Vec<_> = said.map(|key| key.help).collect();
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_doubled_and_other_bytes_kept() {
        assert_eq!(
            double_commas(OsStr::from_bytes(b"a,b,,\xff")),
            OsStr::from_bytes(b"a,,b,,,,\xff")
        );
    }
}
