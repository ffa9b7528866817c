//! Commands that are programs of their own, as git and cargo have them: `hartvisor compare` is `hartvisor-compare`.
//!
//! So what only some need, such as drawing pictures, is not in the monitor.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;

/// Becomes `hartvisor-NAME`, the one beside this program, else the one on the PATH. It returns only when that fails.
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
    Error::Host {
        what: format!("start {}", program.display()),
        source,
    }
}
