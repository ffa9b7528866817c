//! A dialog with a program over its standard streams.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab;
use super::program::{Deadline, LOOK, listen, undisturbed, wait};

/// A running program, its output so far, and how much of it was consumed.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<(u8, Vec<u8>)>,
    seen: String,
    read: usize,
}

impl Session {
    /// Starts `lab/run OPTIONS -- hartvisor run ARGUMENTS` on KVM with this directory shared. Each
    /// step has its own time limit.
    pub fn on_kvm(options: &[&str], folder: &Path, arguments: &[&str]) -> Session {
        let mut command = lab::lab(&[&["--timeout", "3600"], options].concat(), &[folder]);
        command
            .arg(lab::hartvisor())
            .args(["run", "--accel", "kvm"]);
        Session::start(command.args(arguments))
    }

    /// Starts a program. Its standard error is included in the output.
    pub fn start(command: &Command) -> Session {
        let mut child = undisturbed(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = listen(&mut child);
        Session { stdin: child.stdin.take(), child, output, seen: String::new(), read: 0 }
    }

    /// Waits until one of these texts follows the last match, and returns its index. The time limit
    /// is in seconds of the program's process time.
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

    /// Whether this text follows the last match. Waits until there is no output for one [`LOOK`].
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

    /// Returns the rest of the line of the last match.
    #[track_caller]
    pub fn line(&mut self, seconds: u64) -> String {
        let from = self.read;
        self.expect("\n", seconds);
        self.seen[from..self.read].trim_end().to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Returns the program's process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Closes the input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Types a text.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the program exits. Returns its status and all of its output.
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
