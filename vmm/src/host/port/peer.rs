//! The host side of a relay: a client that comes and goes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::error::Error;
use crate::host::socket::Socket;

/// The client's side.
#[derive(Debug)]
pub(super) enum Peer {
    /// One client at a time. Others are disconnected meanwhile.
    Socket {
        listener: Socket,
        client: Option<File>,
        /// Whether the client has stopped sending.
        ended: bool,
    },
    /// The master of a pseudo-terminal. A client is present while a program has the slave open.
    Pty { master: File, present: bool },
}

impl Peer {
    /// Listens at `path`, which `option` names.
    pub(super) fn listen(option: &'static str, path: &Path) -> Result<Peer, Error> {
        Ok(Peer::Socket { listener: Socket::listen(option, path)?, client: None, ended: false })
    }

    /// Creates a raw pseudo-terminal, and returns it with the path of its slave.
    pub(super) fn pty() -> io::Result<(Peer, PathBuf)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = PathBuf::from(OsString::from_vec(
            ptsname(&master, Vec::new())?.into_bytes(),
        ));
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(&name)?;
        let mut mode = tcgetattr(&slave)?;
        mode.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &mode)?;
        fcntl_setfl(&master, OFlags::NONBLOCK)?;
        // With the slave closed here, the master shows whether another program has it open.
        let peer = Peer::Pty { master: master.into(), present: false };
        Ok((peer, name))
    }

    /// Returns where the client's bytes are read, if it may send some.
    pub(super) fn source(&self) -> Option<&File> {
        match self {
            Peer::Socket { client, ended, .. } => client.as_ref().filter(|_| !ended),
            // Without a client, regular reads find what an earlier client left behind.
            Peer::Pty { master, .. } => Some(master),
        }
    }

    /// Returns where the client's output goes.
    pub(super) fn sink(&self) -> Option<&File> {
        match self {
            Peer::Socket { client, .. } => client.as_ref(),
            Peer::Pty { master, present } => present.then_some(master),
        }
    }

    /// Returns a descriptor that shows a new client, or `None` if the relay must poll.
    pub(super) fn arrivals(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Peer::Socket { listener, .. } => Some(listener.as_fd()),
            Peer::Pty { .. } => None,
        }
    }

    /// Accepts a waiting client, and drops one that has hung up.
    pub(super) fn look(&mut self) {
        match self {
            Peer::Socket { listener, client, ended, .. } => {
                if *ended && client.as_ref().is_some_and(is_hung_up) {
                    *client = None;
                }
                while let Ok(Some(stream)) = listener.accept() {
                    if client.is_none() {
                        *client = Some(OwnedFd::from(stream).into());
                        *ended = false;
                    }
                }
            }
            Peer::Pty { master, present } => *present = !is_hung_up(master),
        }
    }

    /// Records that the client has stopped sending. It may still read.
    pub(super) fn ended(&mut self) {
        match self {
            Peer::Socket { ended, .. } => *ended = true,
            Peer::Pty { present, .. } => *present = false,
        }
        self.look();
    }
}

fn is_hung_up(master: &File) -> bool {
    let mut fds = [PollFd::new(master, PollFlags::empty())];
    let ready = poll(&mut fds, Some(&Timespec::default()));
    let [fd] = fds;
    ready.is_ok() && fd.revents().contains(PollFlags::HUP)
}

/// Returns the relay's end of the socket pair. The guest's devices have the other end.
pub(super) fn guest_end(stream: UnixStream) -> io::Result<File> {
    stream.set_nonblocking(true)?;
    Ok(OwnedFd::from(stream).into())
}
