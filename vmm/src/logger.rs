//! Log messages to stderr, at the level in `HARTVISOR_LOG`.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Mutex;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::Error;
use crate::stderr;

/// The environment variable with the level.
const VARIABLE: &str = "HARTVISOR_LOG";

/// The texts of this run's warnings and errors. Each is written once, so that a guest that reboots
/// in a loop cannot fill the log.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The maximum number of warnings and errors per run.
const SAID_MAX: usize = 500;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let mut note = Some("");
        if record.level() <= Level::Warn {
            let mut said = devices::lock(&SAID);
            note = admit(&mut said, &text);
        }
        if let Some(note) = note {
            let level = record.level().as_str().to_lowercase();
            stderr::line(format_args!("{level}: {text}{note}"));
        }
    }

    fn flush(&self) {}
}

/// Returns a suffix for a warning, or `None` if the warning is not to be written.
fn admit(said: &mut BTreeSet<String>, text: &str) -> Option<&'static str> {
    if said.len() >= SAID_MAX || !said.insert(text.to_owned()) {
        return None;
    }
    Some(match said.len() {
        SAID_MAX => " (further warnings are not written)",
        _ => "",
    })
}

/// Starts logging. The default level is warnings and errors.
pub fn start() -> Result<(), Error> {
    let level = match std::env::var_os(VARIABLE) {
        None => LevelFilter::Warn,
        Some(text) => {
            let text = text.to_string_lossy();
            LevelFilter::from_str(&text).map_err(|_| Error::Usage(format!("HARTVISOR_LOG is {text:?}, expected one of: off, error, warn, info, debug, trace")))?
        }
    };
    // Fails only if a logger is already set, as when two tests start one.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_written_once_and_their_number_is_bounded() {
        let mut said = BTreeSet::new();
        assert_eq!(admit(&mut said, "a"), Some(""));
        assert_eq!(admit(&mut said, "a"), None);
        let written = (0..10 * SAID_MAX).filter_map(|n| admit(&mut said, &n.to_string()));
        let notes: Vec<_> = written.collect();
        assert_eq!(notes.len(), SAID_MAX - 1);
        assert!(notes.last().unwrap().contains("not written"));
        assert_eq!(said.len(), SAID_MAX);
    }
}
