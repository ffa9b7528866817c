//! All lines of this program on stderr are written here.
//!
//! The macros of std panic if stderr is full (a log on a full file system) or closed (a pipe
//! without a reader), and block forever if its reader has stopped. No line is worth losing a guest:
//! here the line is dropped instead.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use devices::output::timed::TimedWriter;

/// Opened by the first line.
static STDERR: Mutex<Option<TimedWriter>> = Mutex::new(None);

/// Writes `hartvisor: `, `text` and a newline, in a single write if stderr accepts that.
pub fn line(text: impl Display) {
    write(format!("hartvisor: {text}\n").as_bytes());
}

/// Writes `bytes`, or as many as stderr accepts within
/// [`WRITE_TIMEOUT`](devices::output::WRITE_TIMEOUT).
pub fn write(bytes: &[u8]) {
    let mut writer = devices::lock(&STDERR);
    if writer.is_none() {
        *writer = TimedWriter::new(io::stderr().as_fd()).ok();
    }
    if let Some(writer) = writer.as_mut() {
        // There is no way to report an error.
        let _ = writer.write_all(bytes);
    }
}
