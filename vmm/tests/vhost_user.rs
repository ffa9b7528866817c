//! `hartvisor vhost-user`: its socket, its permissions and its exit. A minimal front end is enough.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;

use support::folder::{Folder, expect};
use support::program::{self, output, undisturbed};

const TIMEOUT: Duration = Duration::from_secs(300);

/// A running back end. Dropping it kills it.
struct Server(Child);

impl Server {
    fn start(folder: &Folder, arguments: &[&str]) -> Server {
        let mut command = folder.command();
        command.args(["vhost-user", "--socket", "socket"]);
        let mut command = undisturbed(command.args(arguments));
        Server(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Returns its exit status and output.
    fn end(mut self) -> (ExitStatus, String) {
        let status = program::wait(&mut self.0);
        let mut text = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        (status, text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects as soon as the socket accepts connections.
fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Sends GET_FEATURES and returns the reply.
fn features(stream: &mut UnixStream) -> u64 {
    let request = [1_u32, 1, 0].map(u32::to_le_bytes).concat();
    stream.write_all(&request).unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    u64::from_le_bytes(answer[12..].try_into().unwrap())
}

fn with_disk() -> Folder {
    let folder = Folder::new();
    folder.file("disk", &[0; 4096]);
    folder
}

const VERSION_1: u64 = 1 << 32;
const READ_ONLY: u64 = 1 << 5;

#[test]
fn front_ends_are_served_one_after_another_until_a_signal() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = with_disk();
        let path = folder.path("socket");
        let server = Server::start(&folder, &["--device", "block,path=disk,readonly"]);
        for _ in 0..3 {
            let mut stream = connect(&path);
            let both = VERSION_1 | READ_ONLY;
            assert_eq!(features(&mut stream) & both, both);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // During a request, and while another client waits.
        let mut stream = connect(&path);
        features(&mut stream);
        let _waits = connect(&path);
        server.signal(signal);
        let (status, text) = server.end();
        assert_eq!(status.code(), Some(128 + signal as i32), "{text}");
        assert_eq!(text, "");
        assert!(!path.exists());
    }
}

#[test]
fn once_ends_with_its_front_end_but_not_with_who_only_looks() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let server = Server::start(&folder, &["--device", "rng", "--once"]);
    drop(connect(&path));
    let mut stream = connect(&path);
    assert_ne!(features(&mut stream) & VERSION_1, 0);
    drop(stream);
    let (status, text) = server.end();
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
    assert!(!path.exists());
}

#[test]
fn a_front_end_that_breaks_the_protocol_is_told_of_and_the_next_one_served() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let server = Server::start(&folder, &["--device", "rng"]);
    let mut stream = connect(&path);
    stream.write_all(&[0xff; 12]).unwrap();
    // The back end closes the connection.
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    assert_ne!(features(&mut connect(&path)) & VERSION_1, 0);
    server.signal(Signal::SIGTERM);
    let (_, text) = server.end();
    assert!(text.contains("broke the protocol"), "{text}");
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let folder = Folder::new();
    let path = folder.path("socket");
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::start(&folder, &["--device", "rng"]);
    features(&mut connect(&path));
    let arguments = ["vhost-user", "--socket", "socket", "--device", "rng"];
    let second = output(folder.command().args(arguments));
    expect(&second, 2, &["--socket", "already listens"]);
    features(&mut connect(&path));
    // It must not remove a file that replaced the socket.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    server.signal(Signal::SIGTERM);
    server.end();
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_disk_is_served_by_one_back_end() {
    let folder = with_disk();
    let server = Server::start(&folder, &["--device", "block,path=disk"]);
    features(&mut connect(&folder.path("socket")));
    let other = ["vhost-user", "--socket", "other", "--device"];
    let mut command = folder.command();
    let second = output(command.args(other).arg("block,path=disk"));
    expect(&second, 2, &["another machine has disk \"disk\""]);
    drop(server);
}

#[test]
fn what_cannot_be_served_is_said_before_there_is_a_socket() {
    let folder = with_disk();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let mut command: Command = folder.command();
        command.arg("vhost-user").args(arguments);
        expect(&output(&command), 2, parts);
        assert!(!folder.path("socket").exists());
    };
    let at = ["--socket", "socket", "--device"];
    let with = |device| [&at[..], &[device]].concat();
    refused(&with("block,path=none"), &["\"none\"", "No such file"]);
    refused(&with("block,path="), &["file name is missing"]);
    refused(&with("block,path=disk,ro"), &["\"ro\""]);
    refused(&with("net"), &["block,path=", "rng", "vhost-user --help"]);
    refused(&["--socket", "socket"], &["--device"]);
    let long = "x".repeat(108);
    refused(&["--socket", &long, "--device", "rng"], &["108 bytes"]);
    refused(&["--socket", "disk", "--device", "rng"], &["regular file"]);
    refused(&["--socket", "no/s", "--device", "rng"], &["\"no/s\""]);
}
