//! The host side of a guest's console or port: `--console`, `--serial`, `--port`.
//!
//! ```text
//!   stdio   the terminal (crate::host::terminal), shared by all consoles that use it
//!   file    output to a file, no input             null   no output, no input
//!   pty     ◀── relay ──▶ a new pseudo-terminal    socket ◀── relay ──▶ a client
//! ```
//! A relay (a thread) lets clients come and go. Output without a client is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use devices::console::Link;
use devices::output::{Lost, Output, timed};

use crate::config::Target;
use crate::error::Error;
use crate::host::files::FileError;
use crate::host::{files, socket};
use crate::stderr;

mod peer;
mod relay;

use peer::Peer;
use relay::Relay;

impl Target {
    /// Checks whether it could be opened, without opening it. `option` is the option that names it.
    pub(crate) fn check(&self, option: &'static str) -> Result<(), Error> {
        match self {
            Target::Stdio | Target::Pty | Target::Null => Ok(()),
            Target::File(path) => check_file(option, path),
            Target::Socket(path) => socket::check(option, path),
        }
    }
}

fn check_file(option: &'static str, path: &Path) -> Result<(), Error> {
    match path.metadata() {
        // FIFOs and devices are written to.
        Ok(metadata) if metadata.is_dir() || metadata.file_type().is_socket() => {
            Err(Error::from(FileError::Kind {
                what: option,
                path: path.into(),
                kind: files::kind(&metadata),
                wanted: "a file to write to",
            }))
        }
        _ => files::check_folder(option, path),
    }
}

/// What fails, in errors.
const RELAY: &str = "give a console its descriptors and thread";

/// The open back end of a console, unless it is the terminal.
#[derive(Debug)]
pub struct Port {
    input: File,
    output: File,
    lost: Arc<Lost>,
    relay: Option<Relay>,
}

impl Port {
    /// Opens `target` for `option`. Returns `None` for the terminal, which consoles share. `label`
    /// names the console in a message to the user.
    ///
    /// # Errors
    /// It cannot be opened or created.
    pub fn open(option: &'static str, label: &str, target: &Target) -> Result<Option<Port>, Error> {
        let lost = Arc::new(Lost::new(format!("{label} {target}")));
        Ok(Some(match target {
            Target::Stdio => return Ok(None),
            Target::Null => Port::file("/dev/null", lost)
                .map_err(FileError::create(option, "/dev/null".as_ref()))?,
            Target::File(path) => {
                Port::file(path, lost).map_err(FileError::create(option, path))?
            }
            Target::Socket(path) => {
                Port::relayed(Peer::listen(option, path)?, lost).map_err(Error::host(RELAY))?
            }
            Target::Pty => {
                let (peer, name) = Peer::pty().map_err(Error::host("open a pseudo-terminal"))?;
                stderr::line(format_args!("{label} is at {}", name.display()));
                Port::relayed(peer, lost).map_err(Error::host(RELAY))?
            }
        }))
    }

    /// Creates a port for output only.
    fn file(path: impl AsRef<Path>, lost: Arc<Lost>) -> io::Result<Port> {
        Ok(Port {
            input: File::open("/dev/null")?,
            output: timed::create(path.as_ref())?,
            lost,
            relay: None,
        })
    }

    fn relayed(peer: Peer, lost: Arc<Lost>) -> io::Result<Port> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = File::from(std::os::fd::OwnedFd::from(ours));
        Ok(Port {
            input: ours.try_clone()?,
            output: ours,
            lost,
            relay: Some(Relay::start(theirs, peer)?),
        })
    }

    /// Returns whether a client is connected, or `None` if the back end has no clients.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.relay.as_ref().map(Relay::link)
    }

    /// Returns its input, non-blocking. All descriptors share it: the first reader gets the bytes.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn input(&self) -> Result<File, Error> {
        self.input.try_clone().map_err(Error::host(RELAY))
    }

    /// Returns its output, which never blocks.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn output(&self) -> Result<Output, Error> {
        let file = self.output.try_clone().map_err(Error::host(RELAY))?;
        Ok(Output::new(file, Arc::clone(&self.lost)))
    }

    /// Returns the count of lost output.
    pub fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }
}

#[cfg(test)]
#[path = "port_test.rs"]
mod tests;
