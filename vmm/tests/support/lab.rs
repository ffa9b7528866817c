//! Commands in the emulated RISC-V KVM host.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[allow(clippy::duplicate_mod, reason = "each of these is a whole of its own")]
#[path = "program.rs"]
pub mod program;

/// What `lab/run` and timeout(1) end with when the time is up.
pub const TIMED_OUT: i32 = 124;

/// Seconds after which something is wrong with `lab/run` itself, whose own limit is lower.
const LONGEST: u64 = 3600;

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR");
    project().join(named.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// The build of hartvisor that runs in the host.
pub fn hartvisor() -> PathBuf {
    target().join("riscv64gc-unknown-linux-gnu/release/hartvisor")
}

/// The bare-metal guest.
pub fn guest() -> PathBuf {
    target().join("riscv64gc-unknown-none-elf/release/guest")
}

/// A file that the set-up fetched: `vmlinux`, `busybox`, `modules`, `release`.
pub fn host_file(name: &str) -> PathBuf {
    cached("host", name)
}

/// A file of what the set-up, or lab/fetch, left under a name.
pub fn cached(what: &str, name: &str) -> PathBuf {
    cache().join(what).join(name)
}

/// The folder of what was fetched, which several checkouts may share by a symbolic link.
fn cache() -> PathBuf {
    project().join("lab/cache").canonicalize().unwrap()
}

/// `lab/run OPTIONS`, with the folders of these files in the host; the command is still to come.
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

/// Runs a command, with this on its standard input. A limit of `lab/run` that was met fails the test, and says which.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let output = run_or_time_out(command, input);
    let text = text(&output);
    assert_ne!(output.status.code(), Some(TIMED_OUT), "{text}");
    output
}

/// The same, where a command that hangs is a result.
#[track_caller]
pub fn run_or_time_out(command: &Command, input: &[u8]) -> Output {
    program::output_within(LONGEST, command, input)
}

/// Standard output as text, for reading and for messages.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}
