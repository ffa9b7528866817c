//! Messages to stderr, at the level that `HARTVISOR_LOG` names.

use std::str::FromStr;

use log::{LevelFilter, Log, Metadata, Record};

use crate::error::Error;

/// The environment variable that holds the level.
const VARIABLE: &str = "HARTVISOR_LOG";

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            eprintln!(
                "hartvisor: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}

/// Begins to log; without the variable, warnings and errors.
pub fn start() -> Result<(), Error> {
    let level = match std::env::var_os(VARIABLE) {
        None => LevelFilter::Warn,
        Some(text) => {
            let text = text.to_string_lossy();
            LevelFilter::from_str(&text).map_err(|_| Error::LogLevel(text.into_owned()))?
        }
    };
    // Fails only when a logger is set already, as when two tests start one.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}
