//! A listening Unix socket at a path, for a console, a port, or a vhost-user device.

use std::fs::{File, Metadata, remove_file};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::error::{Class, Error};
use crate::host::files::{self, FileError};

/// Maximum length of a socket's path in bytes: sockaddr_un holds 108, including the NUL (unix(7)).
pub(crate) const PATH_MAX: usize = 107;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// How often to try to lock a directory, and the time between two attempts.
const LOCK_TRIES: usize = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// Errors of socket paths.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is too long for the system.
    #[error("{option}: socket path {path:?} has {length} bytes, at most {limit} are possible")]
    Path { option: &'static str, path: PathBuf, length: usize, limit: usize },

    /// Another process listens on the socket.
    #[error("{option}: a process already listens on socket {path:?}, give another path")]
    InUse { option: &'static str, path: PathBuf },
}

impl SocketError {
    /// Returns the error's class.
    pub(crate) fn class(&self) -> Class {
        Class::Usage
    }
}

/// A listening socket. Only this user may connect. Dropping it removes its path, unless another
/// file has replaced it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file at `path`.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`. Replaces a socket that no process listens on. `option` is the option that
    /// names it.
    ///
    /// # Errors
    /// A process listens there, or the socket cannot be created.
    pub(crate) fn listen(option: &'static str, path: &Path) -> Result<Socket, Error> {
        let create = FileError::create(option, path);
        // Two processes may find the same stale socket. Without a lock the slower one would remove
        // the other's new socket.
        let _lock = lock_directory(path);
        if is_stale(option, path)? {
            remove_file(path).map_err(create)?;
        }
        Ok(Socket {
            listener: listen_at(path).map_err(create)?,
            path: path.into(),
            identity: identity(path),
        })
    }

    /// Accepts a connection as a non-blocking stream. Returns `None` if there is none, or if it was
    /// closed again.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        let accepted = self.listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            let _ = remove_file(&self.path);
        }
    }
}

/// Connects to `path` without waiting for a process that has many connections to accept.
///
/// # Errors
/// No process listens there, or it accepts none now.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Checks that a socket could listen at `path`, without creating it. `option` is the option that
/// names it.
///
/// # Errors
/// The path is too long, its directory does not exist, or another file is there.
pub(crate) fn check(option: &'static str, path: &Path) -> Result<(), Error> {
    is_stale(option, path).map(drop)
}

/// As [`check`]. Returns whether a socket is there that no process listens on.
fn is_stale(option: &'static str, path: &Path) -> Result<bool, Error> {
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(Error::from(SocketError::Path {
            option,
            path: path.into(),
            length,
            limit: PATH_MAX,
        }));
    }
    let Ok(metadata) = path.symlink_metadata() else {
        return files::check_folder(option, path).map(|()| false);
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::from(FileError::Kind {
            what: option,
            path: path.into(),
            kind: files::kind(&metadata),
            wanted: "a path where a socket can be made",
        }));
    }
    let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None);
    match socket().and_then(|it| connect(&it, &SocketAddrUnix::new(path)?)) {
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        // The backlog is full, or it is a datagram socket.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Error::from(SocketError::InUse {
            option,
            path: path.into(),
        })),
        Err(errno) => Err(FileError::create(option, path)(errno.into())),
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    // bind(2) creates the path with the mode of the socket (unix(7)), so other users can never
    // connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// Locks the directory of `path` against other processes that create sockets. Continues without the
/// lock if that takes a second.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let directory = File::open(files::folder(path)).ok()?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory.into()),
            Err(Errno::WOULDBLOCK) => sleep(LOCK_WAIT),
            Err(_) => return None,
        }
    }
    None
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    path.symlink_metadata().ok().map(identity)
}

#[cfg(test)]
#[path = "socket_test.rs"]
mod tests;
