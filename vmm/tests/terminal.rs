//! The terminal of a guest, tried at a real pseudo-terminal: raw while it runs, as before afterwards.
//!
//! The program at the terminal is this test itself, which plays a part when it is told so by the environment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use vmm::pidfile::PidFile;
use vmm::terminal::{Terminal, install_panic_hook};

#[allow(dead_code, unreachable_pub, missing_docs, clippy::cast_possible_wrap)]
#[path = "support/pty.rs"]
mod pty;
use pty::Pty;

const PART: &str = "HARTVISOR_TEST_PART";
const PIDFILE: &str = "HARTVISOR_TEST_PIDFILE";

fn part(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "play", "--nocapture"])
        .env(PART, name);
    command
}

#[test]
#[ignore = "no test, but the program at the terminal"]
fn play() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    install_panic_hook();
    let terminal = Terminal::start(|| std::process::exit(7)).unwrap();
    match part.as_str() {
        "echo" => echo(&terminal),
        "panic" => {
            let _pidfile = PidFile::create(Path::new(&std::env::var(PIDFILE).unwrap())).unwrap();
            std::thread::scope(|scope| {
                let _ = scope.spawn(|| panic!("on purpose")).join();
            });
        }
        "flood" => flood(&terminal),
        other => panic!("no part {other}"),
    }
    drop(terminal);
    std::process::exit(0);
}

/// Says what arrives, until its end.
fn echo(terminal: &Terminal) {
    let (mut input, mut output) = (terminal.input().unwrap(), terminal.output().unwrap());
    say(&mut output, "ready\n");
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break say(&mut output, "end\n"),
            Ok(count) => say(&mut output, &format!("got {:02x?}\n", &buffer[..count])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(&input, PollFlags::POLLIN),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes all of it to an output that does not wait for its reader.
fn say(output: &mut File, text: &str) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match output.write(left) {
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(output, PollFlags::POLLOUT),
            Err(error) => panic!("{error}"),
        }
    }
}

fn wait(file: &File, flags: PollFlags) {
    poll(&mut [PollFd::new(file.as_fd(), flags)], PollTimeout::NONE).unwrap();
}

/// Writes more than the terminal takes while nobody reads it.
fn flood(terminal: &Terminal) {
    let mut output = terminal.output().unwrap();
    let error = (0..10_000).find_map(|_| output.write_all(&[b'.'; 4096]).err());
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
}

#[test]
fn the_terminal_is_raw_and_then_as_before() {
    let mut pty = Pty::start(&mut part("echo"));
    pty.expect("ready");
    assert!(pty.is_raw() && pty.processes_output() && !pty.is_nonblocking());
    pty.type_in(b"\x03\r\x13\x01\x01\x04");
    pty.expect("got [03, 0d, 13, 01, 04]");
    pty.type_in(b"\x01h");
    pty.expect("Ctrl-a x       leave the guest");
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(7));
    // process::exit in `leave` drops nothing; a run that ends in order does.
    assert!(pty.is_raw());
    let mut pty = Pty::start(&mut part("flood"));
    assert_eq!(pty.wait().code(), Some(0));
    assert_eq!(pty.mode(), pty.before);
    assert!(!pty.is_nonblocking());
}

#[test]
fn deadly_signals_restore_the_terminal() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGSEGV,
        Signal::SIGABRT,
    ] {
        let mut pty = Pty::start(&mut part("echo"));
        pty.expect("ready");
        assert!(pty.is_raw());
        pty.signal(signal);
        assert_eq!(pty.wait().signal(), Some(signal as i32));
        assert_eq!(pty.mode(), pty.before, "{signal}");
    }
}

#[test]
fn a_panic_in_any_thread_leaves_nothing_behind_and_gives_status_4() {
    let folder = tempfile::tempdir().unwrap();
    let pidfile = folder.path().join("pid");
    std::fs::write(&pidfile, "").unwrap();
    let mut pty = Pty::start(part("panic").env(PIDFILE, &pidfile));
    assert_eq!(pty.wait().code(), Some(4));
    assert_eq!(pty.mode(), pty.before);
    pty.expect("hartvisor: internal error: panicked at vmm/tests/terminal.rs");
    pty.expect("on purpose");
    assert!(!pidfile.exists());
}

#[test]
fn what_comes_from_a_pipe_passes_unchanged_to_its_end() {
    let mut child = part("echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\x01x\x01").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("got [01, 78, 01]") && text.contains("end\n"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_large_file_arrives_whole() {
    let mut child = part("echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&vec![0x5a; 1 << 20]));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("5a").count(), 1 << 20);
}
