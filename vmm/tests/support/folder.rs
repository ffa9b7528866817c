//! A directory to run `hartvisor` in, and the expected response to invalid input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::kernel::{Elf, shutdown};
use super::program;

/// Link address of the valid kernel.
pub const KERNEL: u64 = 0x8020_0000;

/// A directory with a valid kernel.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.file("kernel", &Elf::new(KERNEL, &shutdown(0)).bytes());
        folder
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs `hartvisor run` with these arguments; file names are relative to this directory. QEMU
    /// cannot be found, because no test may get that far.
    pub fn run(&self, arguments: &[&str]) -> Output {
        program::output(self.command().arg("run").args(arguments))
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
        command
            .current_dir(self.0.path())
            .env("HARTVISOR_QEMU", "no-such-qemu")
            .env_remove("HARTVISOR_LOG");
        command
    }

    /// Runs it with the valid kernel and expects status 2.
    pub fn refused(&self, arguments: &[&str], parts: &[&str]) {
        let all = [&["--kernel", "kernel"], arguments].concat();
        expect(&self.run(&all), 2, parts);
    }

    /// Runs it with a kernel of this content and expects status 2.
    pub fn refused_kernel(&self, content: &[u8], parts: &[&str]) {
        self.file("bad", content);
        expect(
            &self.run(&["--kernel", "bad"]),
            2,
            &[parts, &["\"bad\""]].concat(),
        );
    }
}

/// Expects an exit status, one line on stderr with these parts, and nothing on stdout.
pub fn expect(output: &Output, status: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(
        text.starts_with("hartvisor: ") && text.ends_with('\n') && text.lines().count() == 1,
        "{text:?}"
    );
    assert!(output.stdout.is_empty(), "{output:?}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}
