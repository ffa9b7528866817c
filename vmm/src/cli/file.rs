//! `--config FILE`: options of `hartvisor run` from a TOML or JSON file, under the same names.
//!
//! The file's options are appended to the arguments as if they had been typed, so the command
//! line's own code parses and checks each value. The command line wins: an option given there is
//! not taken from the file. The known names come from the command line's definition, so a new
//! option is valid in files at once. `hartvisor compare` reads such files, too.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::{Cli, Run};
use crate::error::Error;
use crate::host::files::{self, FileError};
use crate::layout::MIB;
use crate::size;

/// Options that are not allowed in a file.
const NOT_HERE: [&str; 3] = ["config", "help", "version"];

/// The arguments with the options of the file appended, and the path of the file, if there is one.
type Merged = (Vec<OsString>, Option<PathBuf>);

/// Merges the arguments of `hartvisor` with the file that they name.
pub(super) fn merge(arguments: Vec<OsString>) -> Result<Merged, Error> {
    if !names_file(&arguments) {
        return Ok((arguments, None));
    }
    // Errors in the arguments themselves are reported when they are parsed again.
    let matches = Cli::command().try_get_matches_from(&arguments).ok();
    match matches.as_ref().and_then(|matches| matches.subcommand()) {
        Some(("run", given)) => append(arguments, given, &[]),
        _ => Ok((arguments, None)),
    }
}

/// Merges the arguments of another program whose `command` has the options of a run. The options in
/// `passed_over` are ignored in the file.
///
/// # Errors
/// The file cannot be read, or contains something other than options of a run.
pub fn merge_for(
    command: Command,
    arguments: Vec<OsString>,
    passed_over: &[&str],
) -> Result<Merged, Error> {
    if !names_file(&arguments) {
        return Ok((arguments, None));
    }
    // The file may name the kernel, which the other program may require.
    let command = command.mut_arg("kernel", |kernel| kernel.required(false));
    match command.try_get_matches_from(&arguments) {
        Ok(given) => append(arguments, &given, passed_over),
        Err(_) => Ok((arguments, None)),
    }
}

/// Whether a file is named. Parsing is the most expensive user-mode part of a start, so it is done
/// twice only if there is a file.
fn names_file(arguments: &[OsString]) -> bool {
    let names = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"--config");
    arguments.iter().any(names)
}

/// Appends the file's options to the arguments, except those that were `given`.
fn append(
    mut arguments: Vec<OsString>,
    given: &ArgMatches,
    passed_over: &[&str],
) -> Result<Merged, Error> {
    let Some(path) = given.get_one::<PathBuf>("config") else {
        return Ok((arguments, None));
    };
    let run = Run::augment_args(Command::new("run"));
    let wrong = |problem| FileError::content("config", path, problem);
    let known = || {
        run.get_arguments()
            .filter_map(|option| Some((option.get_long()?, option)))
            .filter(|(name, _)| !NOT_HERE.contains(name))
    };
    for (key, value) in read(path)? {
        let Some((_, option)) = known().find(|(name, _)| *name == key) else {
            let names: Vec<&str> = known().map(|(name, _)| name).collect();
            let names = names.join(", ");
            return Err(wrong(format!("unknown key {key:?}, known are {names}")));
        };
        let said = as_arguments(&key, option, &value).map_err(wrong)?;
        let typed = given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
        if !typed && !passed_over.contains(&key.as_str()) {
            arguments.extend(said);
        }
    }
    Ok((arguments, Some(path.clone())))
}

/// Returns `--key=value`, or nothing for a flag that is false.
fn as_arguments(key: &str, option: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let refuse = |expected: &str| Err(format!("{key} is {}, expected {expected}", describe(value)));
    let with = |value: &str| OsString::from(format!("--{key}={value}"));
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Bool(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Bool(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => refuse("true or false"),
        // An option with an optional value.
        (ArgAction::Set, Value::Bool(on)) if takes_none(option) => match on {
            true => Ok(vec![format!("--{key}").into()]),
            false => Ok(Vec::new()),
        },
        (ArgAction::Append, Value::Array(values)) => {
            let values = values
                .iter()
                .map(|value| plain(value).map(|value| with(&value)));
            values.collect::<Option<_>>().map_or_else(
                || refuse("a list of strings, each as on the command line"),
                Ok,
            )
        }
        (action, value) => match (plain(value), action) {
            (Some(value), _) => Ok(vec![with(&value)]),
            (None, ArgAction::Append) => refuse("a list of strings, each as on the command line"),
            (None, _) => refuse("a string or an integer, as on the command line"),
        },
    }
}

/// Whether an option may have no value.
fn takes_none(option: &Arg) -> bool {
    let values = option.get_num_args();
    values.is_some_and(|values| values.min_values() == 0)
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a table".into(),
    }
}

fn read(path: &Path) -> Result<Vec<(String, Value)>, Error> {
    let wrong = |problem| FileError::content("config", path, problem);
    let (file, length) = files::open_input("config", path)?;
    if length > MIB {
        let limit = size::show(MIB);
        return Err(wrong(format!(
            "it has {length} bytes, expected at most {limit} of text"
        )));
    }
    let mut bytes = Vec::new();
    file.take(MIB)
        .read_to_end(&mut bytes)
        .map_err(FileError::read("config", path))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("it is not text: {}", error.utf8_error())))?;
    let json = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => false,
        // TOML cannot start like this.
        _ => text.trim_start().starts_with('{'),
    };
    let entries = if json {
        serde_json::from_str::<Entries>(&text).map_err(|error| format!("as JSON: {error}"))
    } else {
        toml::from_str::<Entries>(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            let message = error.message().replace('\n', "; ");
            format!("as TOML: {message}, in line {line}")
        })
    };
    entries.map(|entries| entries.0).map_err(wrong)
}

/// The keys and values of the file, in order. Duplicate keys are rejected; JSON parsers do not do
/// that themselves.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("options by their names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries: Vec<(String, Value)> = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    if entries.iter().any(|(other, _)| *other == key) {
                        return Err(M::Error::custom(format!("key {key:?} is given twice")));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
