//! `--pidfile`: the process ID, for other programs that send signals to this process.
//!
//! The file is locked (flock(2)) while this process runs. A file left behind by a killed process is
//! reused; one that is in use is not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;
use crate::host::files::{self, FileError};

/// Maximum bytes of a process ID and its newline. A longer file is not a pidfile.
const LONGEST: u64 = 20;

/// The pidfile of this process, for [`remove`].
static OURS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A pidfile. Dropping it removes the file.
#[derive(Debug)]
pub struct PidFile(Claim);

impl PidFile {
    /// Writes the ID of this process to `path`.
    ///
    /// # Errors
    /// It cannot be written, another process uses it, or its content is not a process ID.
    pub fn create(path: &Path) -> Result<PidFile, Error> {
        let failed = FileError::write("the process id to", path);
        let claim = loop {
            let claim = Claim::new(path)?;
            // Its owner may have removed it after it was opened here and before it was locked.
            if claim.is_at_path().map_err(failed)? {
                break claim;
            }
        };
        claim.expect_id()?;
        // From here on this process must remove it.
        let pidfile = PidFile(claim);
        pidfile.0.write_id().map_err(failed)?;
        if let Ok(mut ours) = OURS.lock() {
            *ours = Some(path.into());
        }
        Ok(pidfile)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It is unlocked after that, when the file is closed.
        if self.0.is_at_path().unwrap_or(false) {
            let _ = fs::remove_file(&self.0.path);
        }
        if let Ok(mut ours) = OURS.lock() {
            ours.take();
        }
    }
}

/// A file that no other process has locked.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    /// Locked, if the file system supports that.
    file: File,
}

impl Claim {
    fn new(path: &Path) -> Result<Claim, Error> {
        if let Ok(metadata) = path.metadata() {
            files::expect_regular("pidfile", path, &metadata)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(FileError::write("the process id to", path))?;
        // Another error means that the file system does not support locks.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(in_use(path, &file));
        }
        Ok(Claim { path: path.into(), file })
    }

    fn is_at_path(&self) -> io::Result<bool> {
        let ours = &self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Protects, for example, a disk image that was named by mistake from being overwritten.
    fn expect_id(&self) -> Result<(), Error> {
        let content = content(&self.file).map_err(FileError::read("pidfile", &self.path))?;
        let short = content.len() as u64 <= LONGEST;
        if short && content.trim_ascii().iter().all(u8::is_ascii_digit) {
            return Ok(());
        }
        Err(FileError::content(
            "pidfile",
            &self.path,
            "its content is not a process ID, name another file",
        ))
    }

    fn write_id(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    }
}

/// Removes the pidfile of this process, if it has one. Needed before an exit that does not run
/// destructors.
pub fn remove() {
    if let Ok(mut ours) = OURS.try_lock()
        && let Some(path) = ours.take()
    {
        let _ = fs::remove_file(path);
    }
}

fn content(mut file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.take(LONGEST + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn in_use(path: &Path, file: &File) -> Error {
    let owner = content(file).unwrap_or_default();
    let owner = String::from_utf8_lossy(owner.trim_ascii()).into_owned();
    FileError::content(
        "pidfile",
        path,
        format!("process {owner} runs with it, name another file"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_id_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pidfile = PidFile::create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn one_left_behind_is_taken_over_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "4194304999\n").unwrap();
        let first = PidFile::create(&path).unwrap();
        let error = PidFile::create(&path).unwrap_err();
        let expected = format!("process {} runs with it", std::process::id());
        assert!(error.to_string().contains(&expected), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(path.exists(), "who is refused removes nothing");
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn another_file_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        for content in ["a disk", "123456789012345678901", "12\n34x"] {
            fs::write(&path, content).unwrap();
            let error = PidFile::create(&path).unwrap_err();
            assert!(error.to_string().contains("not a process ID"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_file_that_has_replaced_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pidfile = PidFile::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
}
