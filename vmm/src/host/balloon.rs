//! The file that contains a memory balloon's size.

use std::io::Read;
use std::path::Path;

use log::warn;

use super::files::{FileError, open_input};
use crate::config::{Balloon, Machine, Memory, check_balloon_size};
use crate::error::Error;
use crate::size;

/// What the file is, for messages.
const WHAT: &str = "balloon size file";

/// The longest size in bytes of text, with what surrounds it.
const TEXT_MAX: u64 = 64;

/// Checks that the balloon's size can be read, if there is a balloon.
///
/// # Errors
/// As [`size()`].
pub(crate) fn check(config: &Machine) -> Result<(), Error> {
    let balloon = config.balloon.as_ref();
    balloon.map_or(Ok(()), |it| size(it, &config.memory).map(drop))
}

/// Returns the number of bytes that the guest should give up now.
///
/// # Errors
/// The file cannot be read, or contains something else.
fn size(balloon: &Balloon, memory: &Memory) -> Result<u64, Error> {
    match &balloon.size_file {
        Some(path) => from_file(path, memory),
        None => Ok(balloon.size),
    }
}

/// As [`size()`], for a guest that is there. An error is a warning, and the size stays as it is.
pub(crate) fn size_now(balloon: &Balloon, memory: &Memory) -> Option<u64> {
    let keeps = |error: &Error| warn!("the balloon keeps its size: {}", error.chain());
    size(balloon, memory).inspect_err(keeps).ok()
}

fn from_file(path: &Path, memory: &Memory) -> Result<u64, Error> {
    let (file, _) = open_input(WHAT, path)?;
    let mut text = String::new();
    let read = file.take(TEXT_MAX).read_to_string(&mut text);
    read.map_err(FileError::read(WHAT, path))?;
    let text = text.trim();
    let wrong = |problem| FileError::content(WHAT, path, problem);
    let size = size::parse(text).map_err(|problem| wrong(format!("{text:?}: {problem}")))?;
    check_balloon_size(size, memory).map_err(wrong)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;

    #[test]
    fn the_file_has_one_size_and_what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("size");
        let memory = Memory::new(256 * MIB);
        let balloon = Balloon { size_file: Some(path.clone()), ..Balloon::default() };
        let problem = || size(&balloon, &memory).unwrap_err().chain();
        assert!(problem().contains("No such file"));
        std::fs::write(&path, " 64M\n").unwrap();
        assert_eq!(size(&balloon, &memory).unwrap(), 64 * MIB);
        let long = "1".repeat(1000);
        for (text, part) in [
            ("", "is empty"),
            ("much\n", "\"much\": expected a size such as 256M"),
            ("1G\n", "expected less than the guest's RAM, 256M"),
            (long.as_str(), "expected a size"),
        ] {
            std::fs::write(&path, text).unwrap();
            let problem = problem();
            assert!(problem.contains(part), "{text}: {problem}");
            assert_eq!(size(&balloon, &memory).unwrap_err().exit_code(), 2);
        }
    }
}
