//! The far end of a relay: a client that comes and goes.

use std::fs::{File, remove_file};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;

/// Who may be at the far end.
#[derive(Debug)]
pub(super) enum Peer {
    /// One client at a time; another is turned away meanwhile.
    Socket {
        listener: UnixListener,
        /// Removed when the relay ends.
        path: PathBuf,
        client: Option<File>,
        /// The client sends nothing more.
        ended: bool,
    },
    /// Our end of a pseudo-terminal; a client is there while somebody has the other end open.
    Pty { master: File, present: bool },
}

impl Peer {
    /// Listens at `path`, in place of a socket that nobody listens at any more.
    pub(super) fn listen(path: &Path) -> io::Result<Peer> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        listener.set_nonblocking(true)?;
        Ok(Peer::Socket {
            listener,
            path: path.into(),
            client: None,
            ended: false,
        })
    }

    /// A new pseudo-terminal, raw, and where its other end is.
    pub(super) fn pty() -> io::Result<(Peer, PathBuf)> {
        let pty = openpty(None, None)?;
        let mut mode = tcgetattr(&pty.slave)?;
        cfmakeraw(&mut mode);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &mode)?;
        let name = ttyname(&pty.slave)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // With the slave closed here, the master tells whether somebody else has it open.
        let peer = Peer::Pty {
            master: pty.master.into(),
            present: false,
        };
        Ok((peer, name))
    }

    /// Where the client's bytes are read, as long as it may send some.
    pub(super) fn source(&self) -> Option<&File> {
        match self {
            Peer::Socket { client, ended, .. } => client.as_ref().filter(|_| !ended),
            // While nobody is there a look now and then finds what was left behind.
            Peer::Pty { master, .. } => Some(master),
        }
    }

    /// Where the client can be reached.
    pub(super) fn sink(&self) -> Option<&File> {
        match self {
            Peer::Socket { client, .. } => client.as_ref(),
            Peer::Pty { master, present } => present.then_some(master),
        }
    }

    /// What shows that somebody comes; `None` where one has to look now and then.
    pub(super) fn arrivals(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Peer::Socket { listener, .. } => Some(listener.as_fd()),
            Peer::Pty { .. } => None,
        }
    }

    /// Lets in who has come, and go who has gone.
    pub(super) fn look(&mut self) {
        match self {
            Peer::Socket {
                listener,
                client,
                ended,
                ..
            } => {
                if *ended && client.as_ref().is_some_and(is_hung_up) {
                    *client = None;
                }
                // One that cannot be accepted has gone again.
                while let Ok((stream, _)) = listener.accept() {
                    if client.is_none() && stream.set_nonblocking(true).is_ok() {
                        *client = Some(OwnedFd::from(stream).into());
                        *ended = false;
                    }
                }
            }
            Peer::Pty { master, present } => *present = !is_hung_up(master),
        }
    }

    /// The client sends nothing more. It may still read.
    pub(super) fn ended(&mut self) {
        match self {
            Peer::Socket { ended, .. } => *ended = true,
            Peer::Pty { present, .. } => *present = false,
        }
        self.look();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Peer::Socket { path, .. } = self {
            // It may have been removed already.
            let _ = remove_file(path);
        }
    }
}

fn is_hung_up(master: &File) -> bool {
    let mut fds = [PollFd::new(master.as_fd(), PollFlags::empty())];
    let ready = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    let seen = fd.revents().unwrap_or(PollFlags::empty());
    ready.is_ok() && seen.contains(PollFlags::POLLHUP)
}

/// The relay's end of the pair that the guest's devices have the other end of.
pub(super) fn guest_end(stream: UnixStream) -> io::Result<File> {
    stream.set_nonblocking(true)?;
    Ok(OwnedFd::from(stream).into())
}
