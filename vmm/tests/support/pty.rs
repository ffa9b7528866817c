//! A pseudo-terminal with a program at its far end.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use nix::unistd::{Pid, read};
use std::os::fd::{AsFd, OwnedFd};

/// How long a program may take for one step.
const DEADLINE: Duration = Duration::from_secs(300);

pub struct Pty {
    master: File,
    /// Kept open, so that the mode can be looked at after the program's end.
    pub slave: OwnedFd,
    pub child: Child,
    /// The mode of the terminal before the program began.
    pub before: libc::termios,
    /// What the program wrote that nobody waited for yet.
    pending: Vec<u8>,
}

impl Pty {
    /// Starts a program at a new terminal.
    pub fn start(command: &mut Command) -> Pty {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap().into();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Pty {
            master: pty.master.into(),
            slave: pty.slave,
            child,
            before,
            pending: Vec::new(),
        }
    }

    pub fn type_in(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Reads until the program has written `text`.
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        let text = text.as_bytes();
        loop {
            if let Some(at) = self
                .pending
                .windows(text.len())
                .position(|window| window == text)
            {
                self.pending.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            let seen = String::from_utf8_lossy(&self.pending).into_owned();
            assert!(
                !left.is_zero(),
                "{:?} did not come, but {seen:?}",
                String::from_utf8_lossy(text)
            );
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
                continue;
            }
            let mut buffer = [0; 4096];
            let count = read(&self.master, &mut buffer).unwrap();
            self.pending.extend(&buffer[..count]);
        }
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().unwrap();
        panic!("the program did not end");
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether the terminal passes each byte at once, without echo.
    pub fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.slave).unwrap();
        !mode
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The whole mode, for comparison.
    pub fn mode(&self) -> libc::termios {
        tcgetattr(&self.slave).unwrap().into()
    }

    pub fn processes_output(&self) -> bool {
        tcgetattr(&self.slave)
            .unwrap()
            .output_flags
            .contains(OutputFlags::OPOST)
    }

    /// Whether whoever shares the terminal finds it non-blocking.
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
