//! Runs commands in the emulated RISC-V KVM host.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::program;
use super::pty::Pty;

/// Exit status of `lab/run` and timeout(1) after a timeout.
pub const TIMED_OUT: i32 = 124;

/// Time limit in seconds of `lab/run` itself, above its own limit.
const LONGEST: u64 = 3600;

/// Returns the project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Returns cargo's target directory.
pub fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR");
    project().join(named.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// Returns the riscv64 build of hartvisor.
pub fn hartvisor() -> PathBuf {
    target().join("riscv64gc-unknown-linux-gnu/release/hartvisor")
}

/// Returns the bare-metal guest.
pub fn guest() -> PathBuf {
    target().join("riscv64gc-unknown-none-elf/release/guest")
}

/// Returns a file that the set-up downloaded: `vmlinux`, `busybox`, `modules`, `release`.
pub fn host_file(name: &str) -> PathBuf {
    cached("host", name)
}

/// Returns a file in a directory created by the set-up or by lab/fetch.
pub fn cached(what: &str, name: &str) -> PathBuf {
    cache().join(what).join(name)
}

/// Returns the download directory, which several checkouts may share through a symbolic link.
fn cache() -> PathBuf {
    project().join("lab/cache").canonicalize().unwrap()
}

/// Returns `lab/run OPTIONS` with the directories of these files shared with the host. The caller
/// appends the command.
pub fn lab(options: &[&str], folders: &[&Path]) -> Command {
    let mut command = Command::new(project().join("lab/run"));
    command
        .current_dir(project())
        .args(["--timeout", "300"])
        .args(options);
    for folder in folders.iter().copied().chain([&*cache()]) {
        command.arg("--file").arg(folder);
    }
    command
        .arg("--")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Runs a shell script in the host, at a terminal of its own, as in a user's shell. The directories
/// of these files are shared with the host.
pub fn terminal(folders: &[&Path], script: &str) -> Pty {
    let mut lab = lab(&[], folders);
    lab.args(["sh", "-c", script]);
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait"])
        .arg(lab.get_program())
        .args(lab.get_args())
        .current_dir(project());
    Pty::start(&mut command)
}

/// Runs a command with this standard input. A timeout of `lab/run` fails the test.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let output = run_or_time_out(command, input);
    let text = text(&output);
    assert_ne!(output.status.code(), Some(TIMED_OUT), "{text}");
    output
}

/// As above, but a timeout is a result.
#[track_caller]
pub fn run_or_time_out(command: &Command, input: &[u8]) -> Output {
    program::output_within(LONGEST, command, input)
}

/// Returns standard output as text.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}
