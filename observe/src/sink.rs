//! Files for reports, which are written one after the other while a guest runs and at its end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use devices::output::timed::{self, TimedWriter};
use serde::Serialize;

/// Where reports go. No write waits long for a reader.
pub(crate) enum Sink {
    /// A regular file. Each report replaces it as a whole: a reader never finds half of one.
    File(PathBuf),
    /// Anything else, such as a FIFO: it gets one report after the other.
    Stream(Mutex<TimedWriter>),
}

impl Sink {
    /// Creates the file at `path`, or opens what is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn create(path: &Path) -> io::Result<Sink> {
        if path.metadata().map_or(true, |metadata| metadata.is_file()) {
            File::create(path)?;
            return Ok(Sink::File(path.into()));
        }
        let writer = TimedWriter::new(timed::create(path)?.as_fd())?;
        Ok(Sink::Stream(Mutex::new(writer)))
    }

    /// Standard error.
    ///
    /// # Errors
    /// It is closed.
    pub(crate) fn stderr() -> io::Result<Sink> {
        let writer = TimedWriter::new(io::stderr().as_fd())?;
        Ok(Sink::Stream(Mutex::new(writer)))
    }

    /// Writes `report` as JSON.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub(crate) fn write_json(&self, report: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(report)?;
        text.push(b'\n');
        self.write(&text)
    }

    /// Writes a report.
    ///
    /// # Errors
    /// The disk is full, or a reader is gone or has accepted nothing for
    /// [`WRITE_TIMEOUT`](devices::output::WRITE_TIMEOUT).
    pub(crate) fn write(&self, report: &[u8]) -> io::Result<()> {
        match self {
            Sink::File(path) => {
                let mut new = path.as_os_str().to_owned();
                new.push(".new");
                fs::write(&new, report)?;
                fs::rename(&new, path)
            }
            Sink::Stream(writer) => {
                let mut writer = devices::lock(writer);
                writer.write_all(report)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_fifo_that_nobody_reads_delays_nothing_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let sink = Sink::create(&path).unwrap();
        sink.write(b"kept for a reader").unwrap();
        let error = sink.write(&[b'.'; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let full = Sink::create("/dev/full".as_ref()).unwrap();
        let error = full.write(b".").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
