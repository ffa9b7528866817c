//! A build without the feature `observe`: it rejects requests to record.

use std::path::Path;

use super::{Observer, Unobserved};
use crate::config;
use crate::error::Error;
use crate::machine::Machine;

/// Starts nothing.
///
/// # Errors
/// Something is to be recorded.
pub fn start(wanted: &config::Observe, _machine: &Machine) -> Result<Box<dyn Observer>, Error> {
    let config::Observe { stats, trace, rings } = wanted;
    match stats.as_ref().or(trace.as_ref()).or(rings.as_ref()) {
        None => Ok(Box::new(Unobserved)),
        Some(_) => Err(missing("--stats, --trace and --rings")),
    }
}

/// Rejects the request.
///
/// # Errors
/// Always.
pub fn show_trace(_file: &Path, _request: Option<u64>) -> Result<String, Error> {
    Err(missing("trace show"))
}

/// Rejects the request.
///
/// # Errors
/// Always.
pub fn draw_rings(
    _file: &Path,
    _device: Option<&str>,
    _queue: Option<u16>,
    _svg: bool,
) -> Result<String, Error> {
    Err(missing("rings"))
}

fn missing(what: &str) -> Error {
    Error::Usage(format!(
        "this hartvisor was built without {what}: build it with the cargo feature observe"
    ))
}
