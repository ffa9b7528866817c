//! The socket where front ends connect.

use std::fs::{Metadata, remove_file};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use crate::error::Error;
use crate::port;

/// The option that names it.
const OPTION: &str = "--socket";

/// A listening socket of a path, which goes with it.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// What stands for it in the file system: device and inode.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`, in place of a socket that nobody listens at any more. This user alone may connect.
    ///
    /// # Errors
    /// Somebody listens there, or no socket can be made.
    pub(super) fn listen(path: &Path) -> Result<Socket, Error> {
        port::check_socket(OPTION, path)?;
        let bind = || {
            // The mode is right from the beginning. No other thread makes a file now: there is none yet.
            let before = umask(Mode::from_bits_retain(0o177));
            let listener = UnixListener::bind(path);
            umask(before);
            listener
        };
        let create = |source| Error::Create {
            option: OPTION,
            path: path.into(),
            source,
        };
        let listener = match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_file(path).map_err(create)?;
                bind()
            }
            other => other,
        };
        let listener = listener.map_err(create)?;
        let socket = Socket {
            listener,
            path: path.into(),
            identity: path.symlink_metadata().ok().map(|it| identity(&it)),
        };
        socket.listener.set_nonblocking(true).map_err(create)?;
        Ok(socket)
    }

    /// The front end that has come, unless it has gone again.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub(super) fn accept(&self) -> Result<Option<UnixStream>, Error> {
        let gone = [
            ErrorKind::WouldBlock,
            ErrorKind::ConnectionAborted,
            ErrorKind::Interrupted,
        ];
        let accepted = self.listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if gone.contains(&error.kind()) => Ok(None),
            Err(source) => Err(Error::Host {
                what: "accept a front end".into(),
                source,
            }),
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another may have been put into its place.
        let now: io::Result<_> = self.path.symlink_metadata();
        if now.is_ok_and(|now| self.identity == Some(identity(&now))) {
            let _ = remove_file(&self.path);
        }
    }
}
