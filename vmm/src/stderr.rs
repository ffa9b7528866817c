//! Our lines on stderr: the one place that writes them.
//!
//! Std's macros panic where stderr is full (a log on a full file system) or gone (the reader of a pipe has ended), and
//! wait for ever where its reader has stopped. A line is not worth a guest: here it is lost instead.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use crate::timed::TimedWriter;

/// Opened by the first line.
static STDERR: Mutex<Option<TimedWriter>> = Mutex::new(None);

/// Writes `hartvisor: `, `text` and a line feed, in one write where stderr takes that.
pub fn line(text: impl Display) {
    write(format!("hartvisor: {text}\n").as_bytes());
}

/// Writes `bytes`, or what stderr takes of them within [`timed::LIMIT`](crate::timed::LIMIT).
pub fn write(bytes: &[u8]) {
    let mut writer = STDERR.lock().unwrap_or_else(PoisonError::into_inner);
    if writer.is_none() {
        *writer = TimedWriter::new(io::stderr().as_fd()).ok();
    }
    if let Some(writer) = writer.as_mut() {
        // There is nobody left to tell.
        let _ = writer.write_all(bytes);
    }
}
