//! Where a console or port of the guest leads to on the host: `--console`, `--serial`, `--port`.
//!
//! ```text
//!   stdio   the terminal (crate::terminal), shared by all consoles that lead there
//!   file    output to a file, no input             null   no output, no input
//!   pty     ◀── relay ──▶ a new pseudo-terminal    socket ◀── relay ──▶ whoever connects
//! ```
//! A relay (a thread) lets clients come and go: what the guest writes while there is none is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use devices::console::Link;
use devices::output::{Lost, Output};

use crate::config::Target;
use crate::error::Error;
use crate::files::FileError;
use crate::{files, socket, stderr};

mod peer;
mod relay;

use peer::Peer;
use relay::Relay;

impl Target {
    /// Looks whether it could be opened, and opens nothing; `option` is the option that names it.
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
        // Pipes and devices are written to as they are.
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

/// An open end of a console, unless it is the terminal's.
#[derive(Debug)]
pub struct Port {
    input: File,
    output: File,
    lost: Arc<Lost>,
    relay: Option<Relay>,
}

impl Port {
    /// Opens `target` for `option`; `None` for the terminal, which is not for one alone. `label`
    /// says whose it is, where the user must be told.
    ///
    /// # Errors
    /// It cannot be opened or made.
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
                Port::relayed(Peer::listen(option, path)?, lost).map_err(relay_error)?
            }
            Target::Pty => {
                let (peer, name) = Peer::pty().map_err(|source| Error::Host {
                    what: "open a pseudo-terminal".to_owned(),
                    source,
                })?;
                stderr::line(format_args!("{label} is at {}", name.display()));
                Port::relayed(peer, lost).map_err(relay_error)?
            }
        }))
    }

    /// Output alone.
    fn file(path: impl AsRef<Path>, lost: Arc<Lost>) -> io::Result<Port> {
        Ok(Port {
            input: File::open("/dev/null")?,
            output: files::create(path.as_ref())?,
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

    /// Tells whether a client is there; `None` where none comes and goes.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.relay.as_ref().map(Relay::link)
    }

    /// A descriptor of its input, non-blocking. All are one: whoever reads first gets the bytes.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn input(&self) -> Result<File, Error> {
        self.input.try_clone().map_err(relay_error)
    }

    /// A descriptor of its output, which never blocks.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn output(&self) -> Result<Output, Error> {
        let file = self.output.try_clone().map_err(relay_error)?;
        Ok(Output::new(file, Arc::clone(&self.lost)))
    }

    /// The count of output that is lost.
    pub fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }
}

fn relay_error(source: io::Error) -> Error {
    Error::Host {
        what: "give a console its descriptors and thread".to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "port_test.rs"]
mod tests;
