//! A program of this host that serves a device, in a process of its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

/// How long a program that failed may take to end.
const END: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// A running program. It ends when its connection to this process is closed.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    /// What it says on stderr, as far as the pipe holds it.
    said: OwnedFd,
}

impl Helper {
    /// Starts it.
    ///
    /// # Errors
    /// It does not exist, or may not be executed.
    pub(super) fn start(command: &mut Command) -> io::Result<Helper> {
        let (said, says) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(says)
            // The terminal's signals are for this process alone.
            .process_group(0)
            .spawn()?;
        Ok(Helper { child, said })
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Ends it, unless it ends by itself soon. Returns how it ended, and the last line that it said.
    pub(super) fn finish(mut self) -> (String, String) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            if since.elapsed() > END {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break "it did not end".to_owned();
            }
            std::thread::sleep(LOOK);
        };
        let mut text = String::new();
        // To the end of what is there.
        let _ = File::from(self.said).read_to_string(&mut text);
        let last = text.trim().lines().last().unwrap_or("it said nothing");
        (status, last.to_owned())
    }
}

/// Makes the next program inherit a descriptor.
///
/// # Errors
/// The descriptor is not open.
pub(super) fn inherit(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}

/// The program that the environment variable names, else the first of `usual` that exists, else the
/// last of them.
pub(super) fn program(variable: &str, usual: &[&str]) -> PathBuf {
    if let Some(named) = std::env::var_os(variable).filter(|name| !name.is_empty()) {
        return named.into();
    }
    let mut usual = usual.iter().map(PathBuf::from);
    let last = usual.next_back().unwrap_or_default();
    usual.find(|path| path.exists()).unwrap_or(last)
}
