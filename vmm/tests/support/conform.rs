//! Runs the conformance guest (guest/src/bin/conform) on a VMM, and makes the table of its results.
//!
//! If a test kills or hangs the VMM, that is the test's result, and a new VMM continues after that
//! test. The same applies if a device does not recover from a test.
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::lab::{self, hartvisor, project};
use super::{echo, linux};

/// Time limit in seconds of one guest run in the emulated host, far above what it needs.
const TIMEOUT: &str = "1200";
/// The same for QEMU on this machine.
const QEMU_TIMEOUT: &str = "120";
/// Input typed on the virtio console.
const TYPED: &[u8] = b"conform\n";
/// Size of the disks in bytes.
const DISK: usize = 1 << 20;

const BEGIN: &str = "<!-- generated: make conform WRITE=1 -->\n";
const END: &str = "<!-- end of what is generated -->\n";

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// The device or the feature that is missing.
    Skip(String),
    /// What is wrong.
    Fail(String),
    /// The VMM exited.
    Died,
    /// The VMM did nothing until the time limit.
    Hung,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Verdict::Ok => "ok",
            Verdict::Skip(_) => "skip",
            Verdict::Fail(_) => "**FAIL**",
            Verdict::Died => "**died**",
            Verdict::Hung => "**hung**",
        })
    }
}

impl Verdict {
    pub fn is_well(&self) -> bool {
        matches!(self, Verdict::Ok | Verdict::Skip(_))
    }
}

/// The section, name and verdict of each test, by its number.
pub type Results = BTreeMap<usize, (String, Verdict)>;

/// A VMM, or a kind of devices.
pub struct Column {
    pub name: &'static str,
    /// Whether the devices are Hartvisor's.
    pub ours: bool,
    /// Returns the command that runs the guest with these boot arguments and the files of this
    /// directory.
    pub command: fn(&Path, &str) -> Command,
}

/// Hartvisor's devices on KVM, in the emulated host.
pub const KVM: Column = Column {
    name: "ours, KVM",
    ours: true,
    command: |folder, cmdline| kvm(&[], folder, cmdline),
};

/// The same on a host with an AIA.
pub const KVM_AIA: Column = Column {
    name: "ours, KVM with AIA",
    ours: true,
    command: |folder, cmdline| kvm(&["--aia"], folder, cmdline),
};

/// QEMU's own devices, with CPU emulation.
pub const QEMU: Column = Column { name: "QEMU's own", ours: false, command: qemu };

/// Hartvisor's disks, random number generator and socket device over vhost-user, with QEMU's
/// virtio-mmio transport and console.
pub const VHOST_USER: Column =
    Column { name: "ours, vhost-user", ours: false, command: vhost_user };

/// Returns the path of the conformance guest.
fn guest() -> PathBuf {
    lab::guest().with_file_name("conform")
}

fn kvm(host: &[&str], folder: &Path, cmdline: &str) -> Command {
    let options = [&["--timeout", TIMEOUT], host].concat();
    let mut command = lab::lab(&options, &[folder]);
    // The disks are on a file system that supports punching holes, the report on one that outlives
    // the emulated host. The host's side of the tap interface answers ARP. The program at the
    // socket sends back what it receives.
    let program = linux::program(folder, "echo", echo::PROGRAM);
    let script = r#"cp "$1/disk" "$1/readonly" /tmp
        "$5" /tmp/v.sock_52 >/dev/null 2>&1 &
        modprobe tun; tunctl -t vm0; ip addr add 192.0.2.1/24 dev vm0; ip link set vm0 up
        exec "$2" run --accel kvm --cpus 2 --kernel "$3" --cmdline "$4" --serial "file:$1/report" \
            --disk /tmp/disk,serial=conform --disk /tmp/readonly,readonly --port name=conform,target=null --net tap=vm0 --vsock path=/tmp/v.sock --balloon"#;
    command.args(["sh", "-c", script, "sh"]);
    command
        .arg(folder)
        .arg(hartvisor())
        .arg(guest())
        .arg(cmdline)
        .arg(program);
    command
}

fn qemu(folder: &Path, cmdline: &str) -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("timeout");
    command.args([QEMU_TIMEOUT, "qemu-system-riscv64", "-machine", "virt"]);
    command.args([
        "-m",
        "256M",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-kernel"]);
    command.arg(guest()).args(["-append", cmdline]);
    command.arg("-serial").arg(format!("file:{}", at("report")));
    command
        .arg("-drive")
        .arg(format!("file={},format=raw,if=none,id=disk", at("disk")));
    let disk = "virtio-blk-device,drive=disk,serial=conform,num-queues=2";
    command.args(["-device", disk]);
    command.arg("-drive").arg(format!(
        "file={},format=raw,if=none,id=readonly,readonly=on",
        at("readonly")
    ));
    command.args(["-device", "virtio-blk-device,drive=readonly"]);
    command.args(["-chardev", "stdio,id=terminal,signal=off"]);
    command.args(["-device", "virtio-serial-device"]);
    command.args(["-device", "virtconsole,chardev=terminal"]);
    command.args(["-device", "virtio-rng-device"]);
    // Its gateway, 10.0.2.2, answers ARP.
    command.args(["-netdev", "user,id=net"]);
    command.args(["-device", "virtio-net-device,netdev=net"]);
    // Its own socket device needs the host's vhost_vsock.
    command.args(["-device", "virtio-balloon-device,free-page-reporting=on"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn vhost_user(folder: &Path, cmdline: &str) -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("timeout");
    command.args([QEMU_TIMEOUT, env!("CARGO_BIN_EXE_hartvisor")]);
    command.args(["run", "--accel", "qemu", "--cmdline", cmdline, "--kernel"]);
    command.arg(guest());
    command.args(["--serial", &format!("file:{}", at("report"))]);
    command.args(["--disk", &format!("{},serial=conform", at("disk"))]);
    command.args(["--disk", &format!("{},readonly", at("readonly"))]);
    echo::serve(&folder.join("v.sock_52"));
    command.args(["--vsock", &format!("path={}", at("v.sock"))]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs all tests on a VMM, in as many guest runs as necessary. Prints the VMM's messages if it
/// dies.
pub fn run(column: &Column) -> Results {
    let mut results = Results::new();
    let mut first = 1;
    loop {
        let attempt = Attempt::run(column, first);
        let plan = attempt.plan;
        assert!(plan > 0, "{}: {}", column.name, attempt.said);
        results.extend(attempt.results);
        let (number, verdict) = match (attempt.ended, attempt.lost) {
            (true, None) => break,
            // If a run starts with the test that lost the device, another run would not help.
            (true, Some(lost)) if lost == first => (
                lost,
                Verdict::Fail("the device does not work at all".into()),
            ),
            (true, Some(lost)) => {
                first = lost;
                continue;
            }
            (false, _) => {
                let last = results.keys().last().copied().unwrap_or(0);
                let number = first.max(last + 1);
                eprintln!("{}: test {number}: {}", column.name, attempt.said.trim());
                let hung = attempt.status == Some(lab::TIMED_OUT);
                (number, if hung { Verdict::Hung } else { Verdict::Died })
            }
        };
        results.insert(number, (String::new(), verdict));
        first = number + 1;
        if first > plan {
            break;
        }
    }
    results
}

/// One run of the guest.
struct Attempt {
    /// Total number of tests.
    plan: usize,
    results: Results,
    /// The first test without a result because its device was lost.
    lost: Option<usize>,
    /// Whether the guest completed.
    ended: bool,
    status: Option<i32>,
    /// The VMM's output, and the end of the report.
    said: String,
}

impl Attempt {
    fn run(column: &Column, first: usize) -> Attempt {
        let folder = tempfile::tempdir().unwrap();
        for name in ["disk", "readonly"] {
            fs::write(folder.path().join(name), vec![b'c'; DISK]).unwrap();
        }
        let command = (column.command)(folder.path(), &format!("from={first}"));
        let output = lab::run_or_time_out(&command, TYPED);
        let report = fs::read(folder.path().join("report")).unwrap_or_default();
        keep(column, first, &report);
        let report = String::from_utf8_lossy(&report);
        let tail = report.lines().rev().take(3).collect::<Vec<_>>().join(" / ");
        let mut attempt = Attempt {
            plan: 0,
            results: Results::new(),
            lost: None,
            ended: false,
            status: output.status.code(),
            said: format!("{}\n{tail}", lab::text(&output)),
        };
        for line in report.lines() {
            attempt.line(line.trim_end());
        }
        attempt
    }

    fn line(&mut self, line: &str) {
        if let Some(plan) = line.strip_prefix("1..") {
            self.plan = plan.parse().unwrap();
        }
        self.ended |= line.starts_with("# conform: ");
        // The reason follows the failed test point.
        if let Some(reason) = line.strip_prefix("  message: ")
            && let Some(mut last) = self.results.last_entry()
        {
            last.get_mut().1 = Verdict::Fail(reason.trim_matches('"').into());
        }
        let (point, well) = match line.strip_prefix("not ok ") {
            Some(point) => (point, false),
            None => (line.strip_prefix("ok ").unwrap_or_default(), true),
        };
        let Some((number, name)) = point.split_once(" - ") else {
            return;
        };
        let number = number.parse().unwrap();
        let (name, verdict) = match name.split_once(" # SKIP ") {
            Some((_, "not selected")) => return,
            Some((_, "the device was lost")) => {
                self.lost.get_or_insert(number);
                return;
            }
            // Tests after a lost device are run again.
            _ if self.lost.is_some() => return,
            Some((name, why)) => (name, Verdict::Skip(why.into())),
            None if well => (name, Verdict::Ok),
            None => (name, Verdict::Fail(String::new())),
        };
        self.results.insert(number, (name.into(), verdict));
    }
}

/// Keeps a report in target/conform.
fn keep(column: &Column, first: usize, report: &[u8]) {
    let folder = lab::target().join("conform");
    fs::create_dir_all(&folder).unwrap();
    let name = column.name.replace(|c: char| !c.is_alphanumeric(), "-");
    fs::write(folder.join(format!("{name}-{first}.tap")), report).unwrap();
}

/// Formats the results of several columns as a Markdown table, with totals and the reasons of
/// failures at the end.
pub fn table(columns: &[(&Column, Results)]) -> String {
    let mut text = String::from("| # | § | requirement |");
    for (column, _) in columns {
        let _ = write!(text, " {} |", column.name);
    }
    let _ = writeln!(text, "\n|---|---|---|{}", "---|".repeat(columns.len()));
    let numbers = columns.iter().flat_map(|(_, results)| results.keys());
    for number in 1..=numbers.max().copied().unwrap_or(0) {
        let found = |results: &'_ Results| results.get(&number).cloned();
        let name = columns
            .iter()
            .filter_map(|(_, results)| Some(found(results)?.0))
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        let (section, name) = name.split_once(' ').unwrap_or_default();
        let _ = write!(text, "| {number} | {section} | {name} |");
        for (_, results) in columns {
            let verdict = found(results).map_or("?".into(), |(_, verdict)| verdict.to_string());
            let _ = write!(text, " {verdict} |");
        }
        text.push('\n');
    }
    text.push_str("| | | **ok, failed, skipped** |");
    for (_, results) in columns {
        let [ok, failed, skipped] = counts(results);
        let _ = write!(text, " {ok}, {failed}, {skipped} |");
    }
    text.push_str("\n\nWhat failed:\n\n");
    for (column, results) in columns {
        for (number, (_, verdict)) in results.iter().filter(|(_, (_, it))| !it.is_well()) {
            let why = match verdict {
                Verdict::Fail(why) => why,
                Verdict::Hung => "the VMM hangs",
                _ => "the VMM ends",
            };
            let _ = writeln!(text, "- {}, {number}: {why}", column.name);
        }
    }
    text
}

/// Returns the numbers of passed, failed and skipped tests.
pub fn counts(results: &Results) -> [usize; 3] {
    let count = |wanted: fn(&Verdict) -> bool| {
        let verdicts = results.values().filter(|(_, verdict)| wanted(verdict));
        verdicts.count()
    };
    [
        count(|it| *it == Verdict::Ok),
        count(|it| !it.is_well()),
        count(|it| matches!(it, Verdict::Skip(_))),
    ]
}

/// Replaces the table in docs/conformance.md.
pub fn write(table: &str) {
    let path = project().join("docs/conformance.md");
    let old = fs::read_to_string(&path).unwrap();
    let (head, rest) = old.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    fs::write(path, format!("{head}{BEGIN}\n{table}\n{END}{tail}")).unwrap();
}
