//! Where the firmware of guests without a kernel is installed.

use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::error::Error;

/// The file's name, as in Debian's package.
const NAME: &str = "u-boot.bin";

/// The directory of Debian's package u-boot-qemu.
const DEBIAN: &str = "/usr/lib/u-boot/qemu-riscv64_smode";

/// Finds the installed firmware.
///
/// # Errors
/// There is none. The message names the files that were tried.
pub(crate) fn find() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().ok();
    first(&candidates(program.as_deref().and_then(Path::parent)))
}

fn first(files: &[PathBuf]) -> Result<PathBuf, Error> {
    match files.iter().find(|file| file.exists()) {
        Some(file) => Ok(file.clone()),
        None => {
            let tried: Vec<_> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            Err(Error::from(ConfigError::NoFirmware {
                tried: tried.join(", "),
            }))
        }
    }
}

/// Returns the files to try, in this order. `program` is the directory of this program.
fn candidates(program: Option<&Path>) -> Vec<PathBuf> {
    let share = program.and_then(Path::parent);
    let share = share.map(|prefix| prefix.join("share/hartvisor"));
    let directories = program.map(Path::to_owned).into_iter().chain(share);
    let directories = directories.chain([PathBuf::from(DEBIAN)]);
    directories.map(|directory| directory.join(NAME)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_own_directory_comes_before_the_system_s() {
        let debian = "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin";
        assert_eq!(
            candidates(Some(Path::new("/opt/bin"))),
            [
                "/opt/bin/u-boot.bin",
                "/opt/share/hartvisor/u-boot.bin",
                debian
            ]
            .map(PathBuf::from)
        );
        assert_eq!(candidates(None), [PathBuf::from(debian)]);
    }
    #[test]
    fn without_firmware_the_error_says_where_it_was_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| directory.path().join(name));
        let error = first(&files).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let error = error.to_string();
        for file in &files {
            assert!(error.contains(file.to_str().unwrap()), "{error}");
        }
        assert!(error.contains("u-boot-qemu"), "{error}");
        std::fs::write(&files[1], "firmware").unwrap();
        assert_eq!(first(&files).unwrap(), files[1]);
    }
}
