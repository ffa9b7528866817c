//! A program of this host that serves a device, in a process of its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

/// How often it is looked at meanwhile.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// A running program. It ends when its connection to this process is closed.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    /// What it says on stderr, as far as the pipe holds it.
    said: OwnedFd,
}

impl Helper {
    /// Starts it.
    ///
    /// # Errors
    /// It does not exist, or may not be executed.
    pub(crate) fn start(command: &mut Command) -> io::Result<Helper> {
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

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, and the last line that it said, if it failed or does so within `grace`.
    pub(crate) fn failure(&mut self, grace: Duration) -> Option<(String, String)> {
        let since = Instant::now();
        while !self.has_ended() {
            if since.elapsed() > grace {
                return None;
            }
            std::thread::sleep(LOOK);
        }
        let status = self.child.try_wait().ok()??;
        if status.success() {
            return None;
        }
        let mut text = String::new();
        // To the end of what is there.
        let _ = File::from(self.said.try_clone().ok()?).read_to_string(&mut text);
        let last = text.trim().lines().last().unwrap_or("it said nothing");
        Some((status.to_string(), last.to_owned()))
    }
}

/// Makes the next program inherit a descriptor.
///
/// # Errors
/// The descriptor is not open.
pub(crate) fn inherit(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}

/// The first line that `program` prints about its version.
///
/// # Errors
/// It does not exist, or may not be executed.
pub(crate) fn version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The program that the environment variable names, else the first of `usual` that exists, else the
/// last of them.
pub(crate) fn program(variable: &str, usual: &[&str]) -> PathBuf {
    if let Some(named) = std::env::var_os(variable).filter(|name| !name.is_empty()) {
        return named.into();
    }
    let mut usual = usual.iter().map(PathBuf::from);
    let last = usual.next_back().unwrap_or_default();
    usual.find(|path| path.exists()).unwrap_or(last)
}
