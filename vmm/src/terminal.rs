//! The user's terminal, for the consoles of the guest.
//!
//! ```text
//!  stdin ── thread: Ctrl-a x, h, Ctrl-a ──▶ pipe, read end non-blocking ──▶ whichever console asks first
//!  consoles ──▶ stdout through an open file description of its own, non-blocking
//! ```
//! Nobody who shares stdin or stdout with us (the shell, a pager) finds it non-blocking or raw afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::unistd::pipe2;

use crate::error::Error;

mod escape;
mod mode;

use escape::{Action, Escape};
pub use mode::{Restore, install_panic_hook};

/// What Ctrl-a h shows. In raw mode output processing stays on, so a line feed is enough.
const HELP: &str = "
Ctrl-a x       leave the guest (as if its power was cut)
Ctrl-a h       this help
Ctrl-a Ctrl-a  send one Ctrl-a to the guest
";

/// Stdin and stdout while a guest has them; the terminal is as it was when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    input: OwnedFd,
    _restore: Restore,
}

impl Terminal {
    /// Puts the terminal into raw mode, if stdin is one, and begins to carry stdin to [`Terminal::input`].
    ///
    /// Ctrl-a has a meaning only when typed at a terminal: what comes from a file or a pipe passes unchanged.
    /// `leave` is called once, in another thread, when Ctrl-a x is typed.
    pub fn start(leave: impl FnOnce() + Send + 'static) -> Result<Terminal, Error> {
        let is_terminal = io::stdin().is_terminal();
        let (input, sink) = pipe2(OFlag::O_CLOEXEC)
            .map_err(|errno| cannot("create a pipe for stdin", errno.into()))?;
        nonblocking(&input)?;
        if is_terminal {
            // A full pipe must not keep Ctrl-a x from being seen.
            nonblocking(&sink)?;
        }
        let restore =
            Restore::raw().map_err(|source| cannot("put the terminal into raw mode", source))?;
        let carrier = Carrier {
            sink: sink.into(),
            escape: is_terminal.then(Escape::default),
        };
        std::thread::Builder::new()
            .name("terminal".into())
            .spawn(move || carrier.run(leave))
            .map_err(|source| cannot("start the terminal's thread", source))?;
        Ok(Terminal {
            input,
            _restore: restore,
        })
    }

    /// The read end of the pipe that stdin arrives through: never blocks, and ends when stdin has ended.
    ///
    /// All clones are one pipe: whoever reads first gets the bytes.
    pub fn input(&self) -> Result<File, Error> {
        let clone = self
            .input
            .try_clone()
            .map_err(|source| cannot("duplicate the pipe of stdin", source))?;
        Ok(clone.into())
    }

    /// Stdout, in a way that never blocks.
    ///
    /// A terminal or a pipe is opened anew, since O_NONBLOCK belongs to the open file description and ours is shared
    /// with the user's shell. What cannot be opened anew is duplicated: files never block, a socket may.
    pub fn output(&self) -> Result<File, Error> {
        let shared = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|source| cannot("duplicate stdout", source))?;
        let kind = shared
            .metadata()
            .map_err(|source| cannot("look at stdout", source))?
            .file_type();
        if !kind.is_fifo() && !kind.is_char_device() {
            return Ok(shared);
        }
        let anew = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open("/proc/self/fd/1");
        Ok(anew.unwrap_or(shared))
    }
}

fn nonblocking(fd: &OwnedFd) -> Result<(), Error> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|errno| cannot("make the pipe of stdin non-blocking", errno.into()))
}

fn cannot(what: &str, source: io::Error) -> Error {
    Error::Host {
        what: what.into(),
        source,
    }
}

/// Carries stdin to the pipe, in a thread of its own.
struct Carrier {
    sink: File,
    /// Only at a terminal.
    escape: Option<Escape>,
}

impl Carrier {
    fn run(mut self, leave: impl FnOnce()) {
        // Signals are for threads that know what to do with them. Failing would leave them where they are now.
        let _ = SigSet::all().thread_block();
        let mut buffer = [0; 4096];
        loop {
            let bytes = match io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let sent = match &mut self.escape {
                None => self.sink.write_all(bytes),
                Some(escape) => {
                    let (typed, left) = typed(escape, bytes);
                    if left {
                        return leave();
                    }
                    self.sink.write_all(&typed)
                }
            };
            match sent {
                Ok(()) => {}
                // The guest has not read 64 KiB of what was typed: more is lost, as at any terminal.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// What of `bytes` is for the guest, and whether the user left.
fn typed(escape: &mut Escape, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut typed = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match escape.feed(*byte) {
            Action::Send(byte) => typed.push(byte),
            Action::Nothing => {}
            // Nothing can be done for a user whose stderr is gone.
            Action::Help => drop(io::stderr().write_all(HELP.as_bytes())),
            Action::Leave => return (typed, true),
        }
    }
    (typed, false)
}
