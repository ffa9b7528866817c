//! Commands in the emulated RISC-V KVM host.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

/// Runs a command, with this on its standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that ends without reading is no error here.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
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
