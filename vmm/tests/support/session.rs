//! A conversation with a program by its standard streams.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab;

/// A running program, what it has written so far, and how far that was read.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    seen: String,
    read: usize,
}

impl Session {
    /// `lab/run OPTIONS -- hartvisor run ARGUMENTS` on KVM, with this folder in the host.
    pub fn on_kvm(options: &[&str], folder: &Path, arguments: &[&str]) -> Session {
        let mut command = lab::lab(&[&["--timeout", "900"], options].concat(), &[folder]);
        command
            .arg(lab::hartvisor())
            .args(["run", "--accel", "kvm"]);
        Session::start(command.args(arguments))
    }

    /// Starts a program. What it writes to standard error is seen as well.
    pub fn start(command: &mut Command) -> Session {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let ends: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut end in ends {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = end.read(&mut buffer) {
                    let _ = sender.send(buffer[..count].to_vec());
                }
            });
        }
        Session {
            stdin: child.stdin.take(),
            child,
            output,
            seen: String::new(),
            read: 0,
        }
    }

    /// Waits until one of these texts comes after what was expected before, and gives its place in the list.
    pub fn expect_one(&mut self, texts: &[&str], seconds: u64) -> usize {
        let end = Instant::now() + Duration::from_secs(seconds);
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
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(why) => panic!("{texts:?} did not come ({why}), but {}", self.seen),
            }
        }
    }

    /// Waits for a text.
    pub fn expect(&mut self, text: &str, seconds: u64) {
        self.expect_one(&[text], seconds);
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the program's end, and gives its status and all it wrote.
    pub fn end(mut self, seconds: u64) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {}", self.seen),
            }
        }
        let status = self.child.wait().unwrap();
        (status.code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
