//! A stderr that accepts nothing: a log on a full disk, a pipe whose reader exited or stopped.
//! Messages are dropped, and nothing else changes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

mod support;

use support::folder::Folder;

const DEADLINE: Duration = Duration::from_secs(120);

fn full_disk() -> OwnedFd {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

/// Returns each kind of stderr that accepts nothing, and a descriptor that must stay open for it.
fn deaf() -> Vec<(&'static str, OwnedFd, Option<OwnedFd>)> {
    let (_, gone) = io::pipe().unwrap();
    let (pipe_reader, mut pipe) = io::pipe().unwrap();
    // Full, except for less than a line.
    pipe.write_all(&[b'.'; (1 << 16) - 1]).unwrap();
    let (socket_reader, mut socket) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[b'.'; 1024]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    vec![
        ("a full disk", full_disk(), None),
        ("a pipe without a reader", gone.into(), None),
        ("a full pipe", pipe.into(), Some(pipe_reader.into())),
        ("a full socket", socket.into(), Some(socket_reader.into())),
    ]
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("the program did not end");
}

#[test]
fn an_error_that_cannot_be_written_has_its_exit_status() {
    let folder = Folder::new();
    for (kind, stderr, _open) in deaf() {
        let mut command = folder.command();
        command.args(["run", "--kernel", "/nonexistent"]);
        let mut child = command.stderr(stderr).spawn().unwrap();
        assert_eq!(wait(&mut child).code(), Some(2), "{kind}");
    }
}

#[test]
fn a_back_end_that_cannot_complain_of_a_front_end_serves_the_next() {
    for (kind, stderr, _open) in deaf() {
        let folder = Folder::new();
        let path = folder.path("socket");
        let mut command = folder.command();
        command.args(["vhost-user", "--socket", "socket", "--device", "rng"]);
        let mut child = command.stderr(stderr).spawn().unwrap();
        for _ in 0..3 {
            let end = Instant::now() + DEADLINE;
            let mut stream = loop {
                match UnixStream::connect(&path) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(Instant::now() < end, "{kind}: {error}"),
                }
                std::thread::yield_now();
            };
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(&[0xff; 64]).unwrap();
            // The server closes the connection.
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{kind}");
        }
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(wait(&mut child).code(), Some(143), "{kind}");
        assert!(!path.exists(), "{kind}");
    }
}

#[test]
fn who_shares_stderr_finds_it_as_it_was() {
    let (mut reader, stderr) = io::pipe().unwrap();
    let folder = Folder::new();
    let mut command = folder.command();
    command.args(["run", "--kernel", "/nonexistent"]);
    let shared = stderr.as_fd().try_clone_to_owned().unwrap();
    let status = command.stderr(Stdio::from(shared)).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let flags = nix::fcntl::fcntl(&stderr, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(flags & nix::libc::O_NONBLOCK, 0);
    drop((command, stderr));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("hartvisor: cannot open kernel"), "{text}");
}
