//! docs/tested.md: tests that ran and their results. The tests write it if HARTVISOR_WRITE_DOCS is
//! set.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use nix::fcntl::{Flock, FlockArg};

use super::lab::{cached, project};

const HEAD: &str = "# What is tested

Written by the end-to-end tests: `HARTVISOR_WRITE_DOCS=1 make test-full`. Each row is a guest that ran on RISC-V KVM in
the emulated host (`lab/run`), to its end and with every check of its test.

| guest | format | host | `--irqchip` | vCPUs | result |
|---|---|---|---|---|---|
";

/// A row of the table. Its result is written when it is dropped: if the test panics, it failed.
pub struct Row(String);

impl Row {
    /// Starts a row. `host` are the options of `lab/run`.
    pub fn begin(guest: &str, format: &str, host: &[&str], irqchip: &str, vcpus: &str) -> Row {
        let host = match host {
            [] => "without AIA",
            ["--aia"] => "AIA",
            _ => "AIA with guest interrupt files",
        };
        let kernel = host_kernel();
        Row(format!(
            "{guest} | {format} | {kernel}, {host} | {irqchip} | {vcpus}"
        ))
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if std::env::var_os("HARTVISOR_WRITE_DOCS").is_none() {
            return;
        }
        let result = if thread::panicking() {
            "failed"
        } else {
            "passed"
        };
        // A panic here would hide the test's own panic.
        let _ = write(&self.0, result);
    }
}

/// Returns the emulated host's kernel as given to `lab/run`, or Linux 6.12.
fn host_kernel() -> String {
    let name = std::env::var("HARTVISOR_HOST_KERNEL").unwrap_or_else(|_| "host".into());
    match fs::read_to_string(cached(&name, "release")) {
        Ok(release) => {
            let version: Vec<_> = release.split('.').take(2).collect();
            format!("Linux {}", version.join("."))
        }
        // The path of a kernel.
        Err(_) => name,
    }
}

/// Adds a row to the table, or replaces the row of the same run. Tests in several processes may do
/// that at the same time.
fn write(run: &str, result: &str) -> std::io::Result<()> {
    let lock = File::create(lock_file())?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let path = project().join("docs/tested.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let mut rows: BTreeMap<&str, &str> = old
        .lines()
        .skip(HEAD.lines().count())
        .filter_map(|line| {
            line.strip_prefix("| ")?
                .strip_suffix(" |")?
                .rsplit_once(" | ")
        })
        .collect();
    rows.insert(run, result);
    let mut text = HEAD.to_owned();
    for (run, result) in rows {
        let _ = writeln!(text, "| {run} | {result} |");
    }
    fs::create_dir_all(project().join("docs"))?;
    fs::write(path, text)
}

fn lock_file() -> PathBuf {
    std::env::temp_dir().join("hartvisor-tested.lock")
}
