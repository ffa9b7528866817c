//! Devices that other processes serve, behind sockets.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use devices::net::Mac;
use devices::transport::remote::{self, Remote, Source};

use super::net::derived;
use super::socket;
use crate::config;
use crate::error::{Class, Error};

/// Errors of back ends.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts name the fields")]
pub enum RemoteError {
    #[error("{option}: no process serves this socket")]
    Missing {
        option: String,
        #[source]
        source: io::Error,
    },

    #[error("{option}: it is not a socket")]
    NotSocket { option: String },

    #[error("{option}: its back end cannot be used")]
    BackEnd {
        option: String,
        #[source]
        source: remote::Error,
    },
}

impl RemoteError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        match self {
            RemoteError::NotSocket { .. } => Class::Usage,
            RemoteError::Missing { .. } | RemoteError::BackEnd { .. } => Class::Host,
        }
    }
}

/// A device that a program behind a socket serves.
#[derive(Debug)]
pub struct BackEnd {
    /// Its configuration.
    pub config: config::Remote,
    /// The hardware address, if it is a network card.
    pub mac: Mac,
    remote: OnceLock<Arc<Remote>>,
}

impl BackEnd {
    /// Checks that there is a socket. It is connected to when the guest starts.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn open(config: &config::Remote) -> Result<BackEnd, Error> {
        let option = config.label();
        match config.socket.metadata() {
            Err(source) => return Err(Error::from(RemoteError::Missing { option, source })),
            Ok(file) if !file.file_type().is_socket() => {
                return Err(Error::from(RemoteError::NotSocket { option }));
            }
            Ok(_) => {}
        }
        let mac = config.mac.map_or_else(|| derived(&option), Mac);
        Ok(BackEnd { config: config.clone(), mac, remote: OnceLock::new() })
    }

    /// The connection, for the device `name`.
    ///
    /// # Errors
    /// The back end cannot be reached or used.
    pub(crate) fn remote(&self, name: &str) -> Result<Arc<Remote>, Error> {
        let source = again(&self.config.socket);
        let kind = || self.config.device(self.mac);
        connected(&self.remote, || {
            let remote = Remote::connect(name, kind(), source);
            remote.map_err(|source| not_usable(self.config.label(), source))
        })
    }
}

/// Connects once.
pub(super) fn connected(
    place: &OnceLock<Arc<Remote>>,
    connect: impl FnOnce() -> Result<Remote, Error>,
) -> Result<Arc<Remote>, Error> {
    if let Some(remote) = place.get() {
        return Ok(Arc::clone(remote));
    }
    let remote = Arc::new(connect()?);
    Ok(Arc::clone(place.get_or_init(|| remote)))
}

/// Connects to a socket, as often as its back end is restarted.
pub(super) fn again(path: &Path) -> Source {
    let path = path.to_owned();
    Source::Again(Box::new(move || socket::connect_at_once(&path)))
}

/// The error for the user's `option` if its back end cannot be used.
pub(super) fn not_usable(option: String, source: remote::Error) -> Error {
    Error::from(match source {
        remote::Error::Connect(source) => RemoteError::Missing { option, source },
        source => RemoteError::BackEnd { option, source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_missing_or_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let back_end = |path: &Path| {
            let config = config::Remote { socket: path.to_owned(), ..Default::default() };
            BackEnd::open(&config).unwrap_err()
        };
        let error = back_end(&folder.path().join("absent"));
        assert_eq!(error.exit_code(), 3);
        assert!(
            error
                .chain()
                .contains("/absent: no process serves this socket: No such file")
        );
        let error = back_end(&file);
        assert_eq!(error.exit_code(), 2);
        assert!(error.chain().ends_with("/file: it is not a socket"));
    }

    #[test]
    fn a_socket_that_nobody_serves_any_more_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        drop(UnixListener::bind(&socket).unwrap());
        let config =
            config::Remote::parse(format!("socket={},type=rng", socket.display()).as_ref());
        let error = BackEnd::open(&config.unwrap())
            .unwrap()
            .remote("device")
            .unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(
            error
                .chain()
                .contains("no process serves this socket: Connection refused")
        );
    }
}
