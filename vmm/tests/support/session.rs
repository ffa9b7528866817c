//! A conversation with a program by its standard streams.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab;
use crate::lab::program::{Deadline, LOOK, listen, undisturbed, wait};

/// A running program, what it has written so far, and how far that was read.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<(u8, Vec<u8>)>,
    seen: String,
    read: usize,
}

impl Session {
    /// `lab/run OPTIONS -- hartvisor run ARGUMENTS` on KVM, with this folder in the host. Each step has a limit of its own.
    pub fn on_kvm(options: &[&str], folder: &Path, arguments: &[&str]) -> Session {
        let mut command = lab::lab(&[&["--timeout", "3600"], options].concat(), &[folder]);
        command
            .arg(lab::hartvisor())
            .args(["run", "--accel", "kvm"]);
        Session::start(command.args(arguments))
    }

    /// Starts a program. What it writes to standard error is seen as well.
    pub fn start(command: &Command) -> Session {
        let mut child = undisturbed(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = listen(&mut child);
        Session {
            stdin: child.stdin.take(),
            child,
            output,
            seen: String::new(),
            read: 0,
        }
    }

    /// Waits until one of these texts comes after what was expected before, and gives its place in the list. The seconds are the
    /// program's own.
    #[track_caller]
    pub fn expect_one(&mut self, texts: &[&str], seconds: u64) -> usize {
        let mut deadline = Deadline::of(self.child.id(), seconds);
        loop {
            let rest = &self.seen[self.read..];
            let found = texts
                .iter()
                .enumerate()
                .filter_map(|(number, text)| Some((rest.find(text)? + text.len(), number)))
                .min();
            if let Some((at, number)) = found {
                self.read += at;
                return number;
            }
            match self.output.recv_timeout(LOOK) {
                Ok((_, bytes)) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => {
                    deadline.check(&format!("{texts:?}"), &self.seen);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the program ended without {texts:?}: {}", self.seen)
                }
            }
        }
    }

    /// Whether this text comes, or has come, after what was expected before; waits for one [`LOOK`] of silence.
    pub fn comes(&mut self, text: &str) -> bool {
        loop {
            if let Some(at) = self.seen[self.read..].find(text) {
                self.read += at + text.len();
                return true;
            }
            match self.output.recv_timeout(LOOK) {
                Ok((_, bytes)) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(why) => panic!("{text:?} did not come ({why}), but {}", self.seen),
            }
        }
    }

    /// Waits for a text.
    #[track_caller]
    pub fn expect(&mut self, text: &str, seconds: u64) {
        self.expect_one(&[text], seconds);
    }

    /// The rest of the line that was read to last.
    #[track_caller]
    pub fn line(&mut self, seconds: u64) -> String {
        let from = self.read;
        self.expect("\n", seconds);
        self.seen[from..self.read].trim_end().to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the program's end, and gives its status and all it wrote.
    #[track_caller]
    pub fn end(mut self, seconds: u64) -> (Option<i32>, String) {
        let mut deadline = Deadline::of(self.child.id(), seconds);
        loop {
            match self.output.recv_timeout(LOOK) {
                Ok((_, bytes)) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => deadline.check("its end", &self.seen),
            }
        }
        let status = wait(&mut self.child);
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
