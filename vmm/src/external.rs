//! Subcommands that are separate programs, as in git and cargo: `hartvisor compare` runs
//! `hartvisor-compare`.
//!
//! This keeps rarely needed code, such as drawing charts, out of the monitor.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;

/// Executes `hartvisor-NAME` from this program's directory, or else from the PATH. Returns only on
/// failure.
pub fn become_program(name: &'static str, arguments: &[OsString]) -> Error {
    let file = format!("hartvisor-{name}");
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|path| path.with_file_name(&file));
    let program = beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(&file));
    let source = Command::new(&program).args(arguments).exec();
    if source.kind() == ErrorKind::NotFound {
        return Error::NoExternal { name, file };
    }
    Error::Host { what: format!("start {}", program.display()), source }
}
