//! The device tree that QEMU generates for the guest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::command::{Devices, arguments, program};
use super::error::QemuError;
use super::kernel::Startable;
use super::{inherit, not_started};
use crate::config::double_commas;
use crate::dtb;
use crate::error::Error;
use crate::machine::Machine;
use crate::stderr;

/// Makes QEMU write its device tree to `path` and exit.
pub(super) fn device_tree(machine: &Machine, path: &Path) -> Result<(), Error> {
    let program = program();
    let kernel = Startable::new(&machine.kernel)?;
    if let Startable::Copy(copy, _) = &kernel {
        inherit(copy)?;
    }
    // QEMU replaces its output file, which would delete a device such as /dev/stdout.
    let folder = tempfile::Builder::new().prefix("hartvisor-").tempdir();
    let folder = folder.map_err(Error::host("create a temporary directory"))?;
    let own = folder.path().join("dtb");
    let mut dump = std::ffi::OsString::from("dumpdtb=");
    dump.push(double_commas(own.as_os_str()));
    let output = Command::new(&program)
        .args(arguments(machine, kernel.path(), &Devices::Qemu))
        .arg("-machine")
        .arg(dump)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| not_started(&program, source))?;
    match fs::read(&own) {
        Ok(tree) => dtb::dump(path, &tree),
        Err(_) => {
            // Its messages are only of interest on failure.
            stderr::write(&output.stderr);
            Err(Error::from(QemuError::Failed {
                program: program.to_string_lossy().into(),
                status: output.status.to_string(),
            }))
        }
    }
}
