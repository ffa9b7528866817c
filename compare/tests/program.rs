//! The program, with a `hartvisor` and an emulated host that are scripts; and once with the real
//! ones, under QEMU.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use compare::report::{Report, Verdict};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Prints the same for every way; KVM is missing.
const HARTVISOR: &str = r#"
case "$*" in *--accel=kvm*) echo "hartvisor: no KVM here" >&2; exit 3 ;; esac
echo "hello from $(cat kernel)"
"#;

/// Held while a program is written and while one is started: a child that another test has just
/// forked shares our open files until its exec, and a file that is open for writing cannot be
/// executed ("Text file busy").
static FORKING: Mutex<()> = Mutex::new(());

/// A directory with the program and a `hartvisor`.
struct Place(TempDir);

impl Place {
    fn new(hartvisor: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.program("hartvisor-compare", |path| {
            fs::copy(env!("CARGO_BIN_EXE_hartvisor-compare"), path).unwrap();
        });
        place.script("hartvisor", hartvisor);
        fs::write(place.path("kernel"), "the kernel").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        self.program(name, |path| {
            fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        });
    }

    fn program(&self, name: &str, write: impl FnOnce(&Path)) {
        let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.path(name));
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(self.path("hartvisor-compare"));
        command
            .current_dir(self.0.path())
            .env_remove("HARTVISOR_LAB")
            .args(["--kernel", "kernel", "--json", "json", "--html", "page"])
            .args(["--runs", "2"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
        command.spawn().unwrap()
    }

    /// Its status, its output, and its files.
    fn compare(&self, arguments: &[&str]) -> (Option<i32>, String, Option<Report>) {
        let output = self.start(arguments).wait_with_output().unwrap();
        let kept = fs::read(self.path("json")).ok();
        let report = kept.map(|json| serde_json::from_slice(&json).unwrap());
        (output.status.code(), text(&output), report)
    }
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{out}{err}")
}

#[test]
fn ways_that_say_the_same_agree_and_leave_json_and_a_page() {
    let place = Place::new(HARTVISOR);
    let peer = "peer=sh -c 'echo hello from $(cat $0)' {kernel}";
    let (status, text, report) = place.compare(&["--peer", peer]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("All 3 that ran agree."), "{text}");
    let report = report.unwrap();
    let ran: Vec<_> = report
        .ran()
        .map(|way| (way.name.as_str(), way.runs.len()))
        .collect();
    // Two timed runs and one counting run.
    assert_eq!(
        ran,
        [("our devices", 3), ("QEMU's devices", 3), ("peer", 3)]
    );
    assert!(
        fs::read_to_string(place.path("page"))
            .unwrap()
            .contains("hello from the kernel")
    );
}

#[test]
fn a_peer_that_says_something_else_is_named_with_its_line() {
    let place = Place::new(HARTVISOR);
    let (status, text, report) = place.compare(&["--peer", "other=echo hello"]);
    assert_eq!(status, Some(1), "{text}");
    let line = "other: line 1 is \"hello\", expected \"hello from the kernel\"";
    assert!(text.contains(line), "{text}");
    assert!(matches!(
        report.unwrap().ways.last().unwrap().verdict,
        Some(Verdict::Differs(_))
    ));
}

#[test]
fn a_peer_that_is_not_there_or_hangs_is_told() {
    let place = Place::new(HARTVISOR);
    let (status, text, _) = place.compare(&["--peer", "none=no-such-vmm"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("not run: none") && text.contains("no-such-vmm"),
        "{text}"
    );
    let hangs = "hangs=sh -c 'echo hello from the kernel; exec sleep 1000'";
    let (status, text, _) = place.compare(&["--timeout", "1", "--peer", hangs]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("TIMED OUT"), "{text}");
}

#[test]
fn where_nothing_runs_the_status_is_3_and_bad_input_is_2() {
    let place = Place::new("echo 'hartvisor: nothing here' >&2; exit 3");
    let (status, text, _) = place.compare(&[]);
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("nothing here"), "{text}");
    for wrong in [
        ["--accel", "kvm"],
        ["--peer", "p=vmm {disk}"],
        ["--disk", "no-such-disk"],
        ["--input", "no-such-file"],
    ] {
        let (status, text, _) = place.compare(&wrong);
        assert_eq!(status, Some(2), "{wrong:?}: {text}");
    }
}

#[test]
fn each_run_writes_a_disk_of_its_own() {
    let place = Place::new(
        r#"for word; do case $word in --disk=*) disk=${word#--disk=} ;; esac; done
        cat "${disk%%,*}" && echo written >"${disk%%,*}"; echo "${disk#*,}""#,
    );
    fs::write(place.path("disk"), "untouched\n").unwrap();
    let (status, text, report) = place.compare(&["--disk", "disk,serial=x"]);
    assert_eq!(status, Some(0), "{text}");
    for run in report.unwrap().ran().flat_map(|way| &way.runs) {
        let said: Vec<_> = run.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(said, ["untouched", "serial=x"]);
    }
    assert_eq!(
        fs::read_to_string(place.path("disk")).unwrap(),
        "untouched\n"
    );
}

#[test]
fn a_plan_goes_into_the_emulated_host_and_observations_come_back() {
    let place = Place::new(HARTVISOR);
    // As lab/run: options, --, and a command that finds hartvisor's other builds on its PATH.
    place.script(
        "lab",
        r#"while [ "$1" != -- ]; do echo "$1" >>lab.options; shift; done; shift
        PATH=$PWD/inside:$PATH exec "$@""#,
    );
    fs::create_dir(place.path("inside")).unwrap();
    fs::copy(
        place.path("hartvisor-compare"),
        place.path("inside/hartvisor-compare"),
    )
    .unwrap();
    place.script("inside/hartvisor", "echo 'hello from the kernel'");
    let lab = place.path("lab");
    let (status, text, report) = place.compare(&["--lab", &format!("{} --aia", lab.display())]);
    assert_eq!(status, Some(0), "{text}");
    let report = report.unwrap();
    let first = report.ran().next().unwrap();
    assert_eq!(
        (first.clock, first.runs.len()),
        (compare::clock::Clock::Lab, 3)
    );
    assert_eq!(first.verdict, Some(Verdict::Reference));
    let options = fs::read_to_string(place.path("lab.options")).unwrap();
    let kernel = place.path("kernel").canonicalize().unwrap();
    for part in ["--aia", "--timeout", &kernel.display().to_string()] {
        assert!(
            options.lines().any(|line| line == part),
            "{part}: {options}"
        );
    }
}

#[test]
fn a_signal_ends_what_runs_before_the_program() {
    let place = Place::new("echo $$ >pid; mkfifo ready; echo > ready; exec sleep 1000");
    let mut child = place.start(&[]);
    // The script's first run waits until this is opened.
    while !place.path("ready").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let mut line = String::new();
    let ready = fs::File::open(place.path("ready")).unwrap();
    BufReader::new(ready).read_line(&mut line).unwrap();
    let pid: i32 = fs::read_to_string(place.path("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(
        kill(Pid::from_raw(pid), None).is_err(),
        "{pid} is still there"
    );
}

#[cfg(feature = "e2e")]
#[test]
fn our_guest_says_the_same_with_our_devices_and_with_qemus() {
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let target = project.join(target).canonicalize().unwrap();
    let place = Place::new("");
    fs::remove_file(place.path("hartvisor")).unwrap();
    std::os::unix::fs::symlink(target.join("release/hartvisor"), place.path("hartvisor")).unwrap();
    fs::write(place.path("disk"), vec![0; 1 << 20]).unwrap();
    fs::write(place.path("input"), "hello\n").unwrap();
    let guest = target.join("riscv64gc-unknown-none-elf/release/guest");
    fs::copy(guest, place.path("kernel")).unwrap();
    let peer = "plain=qemu-system-riscv64 -machine virt -m {memory}M -nographic -no-reboot -kernel {kernel} -append poweroff";
    let (status, text, report) = place.compare(&[
        "--disk",
        "disk,serial=x",
        "--input",
        "input",
        "--peer",
        peer,
    ]);
    // The plain QEMU is silent.
    assert_eq!(status, Some(1), "{text}");
    let report = report.unwrap();
    let ways: Vec<_> = report.ran().collect();
    assert_eq!(ways.len(), 3, "{text}");
    assert_eq!(ways[1].verdict, Some(Verdict::Equal { known: 0 }), "{text}");
    assert!(
        matches!(ways[2].verdict, Some(Verdict::Differs(_))),
        "{text}"
    );
    let points = ways[0].points.unwrap();
    assert!(points.passed >= 20 && points.failed == 0, "{text}");
    let counts = ways[0].counts.as_ref().unwrap();
    assert!(counts.memory.is_some(), "{text}");
    let stats = compare::counts::stats(counts).expect(&text);
    let disk = stats
        .devices
        .iter()
        .find(|device| device.name == "disk0")
        .unwrap();
    assert!(disk.queues[0].requests > 0, "{text}");
}
