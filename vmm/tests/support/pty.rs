//! A pseudo-terminal with a program on the other side.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use nix::unistd::{Pid, read};
use std::os::fd::{AsFd, OwnedFd};

use super::program::{self, Deadline, LIMIT, LOOK, undisturbed};

pub struct Pty {
    master: File,
    /// Kept open so that the mode can be read after the program's exit.
    pub slave: OwnedFd,
    pub child: Child,
    /// The terminal's mode before the program started.
    pub before: libc::termios,
    /// Output that no test has waited for yet.
    pending: Vec<u8>,
}

impl Pty {
    /// Starts a program on a new terminal.
    pub fn start(command: &mut Command) -> Pty {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap().into();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = undisturbed(command)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Pty { master: pty.master.into(), slave: pty.slave, child, before, pending: Vec::new() }
    }

    pub fn type_in(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Reads until the program has written `text`.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let mut deadline = Deadline::of(self.child.id(), LIMIT);
        let bytes = text.as_bytes();
        loop {
            if let Some(at) = self
                .pending
                .windows(bytes.len())
                .position(|window| window == bytes)
            {
                self.pending.drain(..at + bytes.len());
                return;
            }
            let seen = String::from_utf8_lossy(&self.pending);
            deadline.check(&format!("{text:?}"), &seen);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(LOOK).unwrap()).unwrap() == 0 {
                continue;
            }
            let mut buffer = [0; 4096];
            let count = read(&self.master, &mut buffer).unwrap();
            self.pending.extend(&buffer[..count]);
        }
    }

    /// Waits until the program exits.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        program::wait(&mut self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether the terminal is raw: no line editing, no echo.
    pub fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.slave).unwrap();
        !mode
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Returns the complete mode, for comparison.
    pub fn mode(&self) -> libc::termios {
        tcgetattr(&self.slave).unwrap().into()
    }

    pub fn processes_output(&self) -> bool {
        tcgetattr(&self.slave)
            .unwrap()
            .output_flags
            .contains(OutputFlags::OPOST)
    }

    /// Whether the terminal is non-blocking for others that share its open file description.
    pub fn is_nonblocking(&self) -> bool {
        let flags = nix::fcntl::fcntl(&self.slave, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        flags & libc::O_NONBLOCK != 0
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
