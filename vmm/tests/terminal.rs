//! The terminal of a guest, tested on a real pseudo-terminal: raw while the guest runs, restored
//! afterwards.
//!
//! The program on the terminal is this test itself. An environment variable selects its part.
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
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use vmm::host::pidfile::PidFile;
use vmm::host::terminal::{Key, Terminal, install_panic_hook};
use vmm::shutdown;
use vmm::signals::{self, SignalFd};

mod support;

use support::program;
use support::pty::Pty;

const PART: &str = "HARTVISOR_TEST_PART";
const PIDFILE: &str = "HARTVISOR_TEST_PIDFILE";
/// The file that starts the part `count` when it appears.
const START: &str = "HARTVISOR_TEST_START";
/// Size of a large paste in bytes.
const PASTE: usize = 1 << 20;

fn part(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "play", "--nocapture"])
        .env(PART, name);
    command
}

/// The signals of a run.
const BLOCKED: &str = "HUP,INT,TERM,USR1,USR2,WINCH,CONT,TSTP,TTOU";

/// Returns the same command with the signals of a run blocked. The test harness's main thread has
/// them unblocked, and would receive them.
fn deaf(command: &Command) -> Command {
    let block = format!("--block-signal={BLOCKED}");
    through(&["env", &block], command)
}

/// Returns the same command, started by a wrapper.
fn through(wrapper: &[&str], command: &Command) -> Command {
    let mut through = Command::new(wrapper[0]);
    through.args(&wrapper[1..]);
    through.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => through.env(name, value),
            None => through.env_remove(name),
        };
    }
    through
}

#[test]
#[ignore = "no test, but the program at the terminal"]
fn play() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let by_default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ];
    for signal in signals {
        #[expect(unsafe_code, reason = "a signal handler may interrupt anything")]
        // SAFETY: there is no handler. If the tests were started by nohup(1) or a shell in the
        // background, these signals are ignored, and the program would inherit that.
        unsafe { sigaction(signal, &by_default) }.unwrap();
    }
    install_panic_hook();
    if part == "stubborn" {
        signals::block(&[signals::SUSPEND]).unwrap();
    }
    let terminal = Terminal::start(|key| match key {
        Key::PowerOff => eprintln!("asked"),
        Key::Leave => std::process::exit(7),
    })
    .unwrap();
    match part.as_str() {
        "echo" => echo(&terminal),
        "panic" => {
            let _pidfile = PidFile::create(Path::new(&std::env::var(PIDFILE).unwrap())).unwrap();
            std::thread::scope(|scope| {
                let _ = scope.spawn(|| panic!("on purpose")).join();
            });
        }
        "flood" => flood(&terminal),
        "stubborn" => stubborn(&terminal),
        "count" => count(&terminal),
        "deaf" => {
            writeln!(terminal.output().unwrap(), "ready").unwrap();
            loop {
                std::thread::park();
            }
        }
        other => panic!("no part {other}"),
    }
    drop(terminal);
    std::process::exit(0);
}

/// Prints what arrives, until the end of input.
fn echo(terminal: &Terminal) {
    let (mut input, mut output) = (terminal.input().unwrap(), terminal.output().unwrap());
    writeln!(output, "ready").unwrap();
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break say(&mut output, "end"),
            Ok(count) => say(&mut output, &format!("got {:02x?}", &buffer[..count])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(
                    &mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                )
                .unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes a line to a non-blocking output, and waits for space.
fn say(output: &mut File, line: &str) {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::NONE).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Prints the number and the sum of the bytes that arrive, once the named file exists.
fn count(terminal: &Terminal) {
    let (mut input, mut output) = (terminal.input().unwrap(), terminal.output().unwrap());
    writeln!(output, "ready").unwrap();
    let start = std::path::PathBuf::from(std::env::var_os(START).unwrap());
    while !start.exists() {
        std::thread::yield_now();
    }
    let (mut total, mut sum, mut buffer) = (0, 0_u64, [0; 1000]);
    while total < PASTE {
        poll(
            &mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )
        .unwrap();
        let count = input.read(&mut buffer).unwrap();
        for byte in &buffer[..count] {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
        total += count;
    }
    writeln!(output, "got {total} with sum {sum:x}").unwrap();
}

/// Does not exit on a signal.
fn stubborn(terminal: &Terminal) {
    let ending = SignalFd::new(&signals::ending()).unwrap();
    let _pidfile = PidFile::create(Path::new(&std::env::var(PIDFILE).unwrap())).unwrap();
    writeln!(terminal.output().unwrap(), "ready").unwrap();
    ending.wait(&ending, None).unwrap();
    ending.take().unwrap();
    shutdown::at_once_by_another_signal();
    loop {
        std::thread::park();
    }
}

/// Writes more than the terminal accepts while nobody reads it.
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
    pty.type_in(b"\x01q");
    pty.expect("asked");
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(7));
    // process::exit in `leave` runs no destructors; a normal exit does.
    assert!(pty.is_raw());
    let mut pty = Pty::start(&mut part("flood"));
    assert_eq!(pty.wait().code(), Some(0));
    assert_eq!(pty.mode(), pty.before);
    assert!(!pty.is_nonblocking());
}

/// Returns a paste without Ctrl-a.
fn paste() -> Vec<u8> {
    let byte = |n| u8::try_from(n % 90 + 33).unwrap();
    (0..u32::try_from(PASTE).unwrap()).map(byte).collect()
}

#[test]
fn a_paste_of_a_megabyte_arrives_whole_though_nobody_reads_it_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    let mut pty = Pty::start(part("count").env(START, &start));
    pty.expect("ready");
    let paste = paste();
    // Returns when the terminal has been read to the end, or nearly.
    pty.type_in(&paste);
    std::fs::write(&start, b"").unwrap();
    let sum = paste.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    pty.expect(&format!("got {PASTE} with sum {sum:x}"));
    assert_eq!(pty.wait().code(), Some(0));
}

#[test]
fn ctrl_a_x_leaves_behind_a_paste_that_the_guest_does_not_read() {
    let mut pty = Pty::start(&mut part("deaf"));
    pty.expect("ready");
    pty.type_in(&paste());
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(7));
}

#[test]
fn a_job_that_was_never_stopped_takes_the_terminal_in_the_foreground_and_not_before() {
    let script = r#""$@" & read -r line; echo "shell got $line"; fg %1; echo "status $?""#;
    let shell = ["setsid", "--ctty", "bash", "-mc", script, "bash"];
    let mut pty = Pty::start(&mut through(&shell, &part("echo")));
    pty.expect("ready");
    assert!(!pty.is_raw());
    pty.type_in(b"one\n");
    pty.expect("shell got one");
    let mut deadline = program::Deadline::of(pty.child.id(), program::LIMIT);
    program::until("raw mode", &mut deadline, || pty.is_raw().then_some(()));
    pty.type_in(b"x");
    pty.expect("got [78]");
    pty.type_in(b"\x01x");
    pty.expect("status 7");
    pty.wait();
}

/// The shell may do so before, while or after the terminal is opened and its thread starts.
#[test]
fn a_job_in_the_background_is_raw_soon_after_it_comes_to_the_foreground() {
    for milliseconds in (0..30).step_by(3) {
        let script = format!(r#""$@" & sleep 0.{milliseconds:03}; fg %1; echo "status $?""#);
        let shell = ["setsid", "--ctty", "bash", "-mc", &script, "bash"];
        let mut pty = Pty::start(&mut through(&shell, &part("echo")));
        pty.expect("ready");
        let mut deadline = program::Deadline::of(pty.child.id(), program::LIMIT);
        program::until("raw mode", &mut deadline, || pty.is_raw().then_some(()));
        pty.type_in(b"\x01x");
        pty.expect("status 7");
        pty.wait();
    }
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
fn a_second_signal_ends_at_once_what_does_not_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let folder = tempfile::tempdir().unwrap();
        let pidfile = folder.path().join("pid");
        let mut pty = Pty::start(&mut deaf(part("stubborn").env(PIDFILE, &pidfile)));
        pty.expect("ready");
        assert!(pty.is_raw() && pidfile.exists());
        // Signals within half a second count as one.
        while pty.child.try_wait().unwrap().is_none() {
            pty.signal(signal);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(pty.wait().code(), Some(128 + signal as i32));
        assert_eq!(pty.mode(), pty.before, "{signal}");
        assert!(!pidfile.exists());
    }
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
