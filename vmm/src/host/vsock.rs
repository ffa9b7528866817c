//! The Unix socket through which host programs reach the ports of a guest.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use devices::vsock::{Listener, Vsock};

use crate::config;
use crate::error::Error;
use crate::host::socket::{PATH_MAX, Socket, SocketError};

/// What is appended to the path for a port of the host: `_` and at most ten digits.
const SUFFIX_MAX: usize = 11;

/// The host's side of the socket device.
#[derive(Debug)]
pub struct Host {
    /// Devices share it, as the guest may reboot. Its path is removed after the last one.
    socket: Arc<Socket>,
    path: PathBuf,
    cid: u32,
}

impl Host {
    /// Listens on the socket of `config`.
    ///
    /// # Errors
    /// The path is too long, or another process listens there.
    pub(crate) fn open(config: &config::Vsock) -> Result<Host, Error> {
        let config::Vsock { path, cid } = config.clone();
        let (length, limit) = (path.as_os_str().len(), PATH_MAX - SUFFIX_MAX);
        let option = "--vsock";
        if length > limit {
            return Err(Error::from(SocketError::Path {
                option,
                path,
                length,
                limit,
            }));
        }
        let socket = Arc::new(Socket::listen(option, &path)?);
        Ok(Host { socket, path, cid })
    }

    /// Creates the device.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub(crate) fn device(&self) -> io::Result<Vsock> {
        Vsock::new(self.cid, self.socket.clone(), self.path.clone())
    }
}

impl Listener for Socket {
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        Socket::accept(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_must_leave_room_for_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let longest = PATH_MAX - SUFFIX_MAX - folder.path().as_os_str().len() - 1;
        let open = |length| {
            let path = folder.path().join("s".repeat(length));
            Host::open(&config::Vsock { path, cid: 3 })
        };
        let host = open(longest).unwrap();
        host.device().unwrap();
        assert!(
            open(longest)
                .unwrap_err()
                .to_string()
                .contains("already listens")
        );
        let error = open(longest + 1).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("at most 96"), "{error}");
        drop(host);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
