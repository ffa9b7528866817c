//! The files of a run, and the emulated host in which it takes place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bench::cpio::Archive;
use bench::metrics::{Metrics, name};
use bench::plan::{FOLDER, Plan, ScalePlan, Start, VSOCK};
use bench::protocol::{ALWAYS, MODULES, SEED, TESTS, Test};
use bench::record::{Measure, Record};
use bench::scale::Sample;
use bench::template;

use crate::cases::{self, Case, Net};
use crate::scenes;

/// The guest's memory in MiB.
const MEMORY: u64 = 256;

/// The host's interface.
const TAP: &str = "vm0";

/// The project's directory and its builds.
pub(crate) struct Lab {
    project: PathBuf,
    /// Directory of the riscv64 programs.
    builds: PathBuf,
    /// Directory for the files of this run.
    work: PathBuf,
    host: HostKernel,
}

/// The kernel of the emulated host. The guest's kernel is always that of Debian's stable release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HostKernel {
    /// Of Debian's stable release
    Host,
    /// Of its next release, from `lab/fetch next`
    Next,
}

impl HostKernel {
    /// Returns its name for `lab/run`, and its directory in lab/cache.
    pub(crate) fn name(self) -> &'static str {
        match self {
            HostKernel::Host => "host",
            HostKernel::Next => "next",
        }
    }
}

impl Lab {
    pub(crate) fn open(host: HostKernel) -> Result<Lab> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the project's folder")?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| project.join("target"), PathBuf::from);
        let lab = Lab {
            project: project.into(),
            builds: target.join("riscv64gc-unknown-linux-gnu/release"),
            work: target.join("bench").join(host.name()),
            host,
        };
        for program in ["hartvisor", "meter", "load"] {
            let path = lab.builds.join(program);
            ensure!(
                path.exists(),
                "{} is not built yet: make bench does it",
                path.display()
            );
        }
        fs::create_dir_all(&lab.work)?;
        fs::create_dir_all(lab.results())?;
        Ok(lab)
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.project.join("bench/results")
    }

    /// Returns the built commit, with a mark if files differ from it.
    pub(crate) fn commit(&self) -> Result<String> {
        let git = |arguments: &[&str]| {
            output(
                Command::new("git")
                    .arg("-C")
                    .arg(&self.project)
                    .args(arguments),
            )
        };
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
        let mark = if changed.is_empty() { "" } else { "-changed" };
        Ok(git(&["rev-parse", "--short", "HEAD"])? + mark)
    }

    pub(crate) fn emulator(&self) -> Result<String> {
        let text = output(Command::new("qemu-system-riscv64").arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Returns the version of the emulated host's kernel.
    pub(crate) fn host_kernel(&self) -> Result<String> {
        self.release(self.host)
    }

    pub(crate) fn guest_kernel(&self) -> Result<String> {
        self.release(HostKernel::Host)
    }

    fn release(&self, kernel: HostKernel) -> Result<String> {
        let release = self.cache(kernel.name()).join("release");
        let text = fs::read_to_string(&release)
            .with_context(|| format!("{} (lab/fetch next gets it)", release.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Whether the VMM is installed.
    pub(crate) fn has(&self, vmm: &str) -> bool {
        vmm == "hartvisor" || self.peer(vmm).exists()
    }

    /// Returns the size of the VMM's stripped program, if it is a single file.
    pub(crate) fn binary(&self, vmm: &str) -> Result<Metrics> {
        let files = self.files(vmm)?;
        let [(program, _)] = files.as_slice() else {
            return Ok(Metrics::new());
        };
        let stripped = self.work.join(format!("{vmm}.stripped"));
        let strip = if cfg!(target_arch = "riscv64") {
            "strip"
        } else {
            "riscv64-linux-gnu-strip"
        };
        output(Command::new(strip).arg("-o").arg(&stripped).arg(program))?;
        let size = fs::metadata(stripped)?.len() as f64 / 1024.0;
        Ok(Metrics::from([(name::BINARY.to_owned(), size)]))
    }

    /// Starts the VMM of `case` in an emulated host: `seeds` times for times, once for counts. The
    /// time limit for all of them is `deadline` seconds of this machine's time.
    pub(crate) fn run(
        &self,
        case: &Case,
        seeds: u64,
        tests: &[Test],
        deadline: u64,
    ) -> Result<Vec<Record>> {
        let work = self.work.join(case.name().replace(' ', "-"));
        fs::create_dir_all(&work)?;
        let plan = work.join("plan.json");
        fs::write(
            &plan,
            serde_json::to_vec_pretty(&self.plan(case, seeds, tests, &work)?)?,
        )?;
        let records = self.meter(&[], &plan, case.aia, deadline)?;
        // Shows how much the starts differ.
        fs::write(work.join("records"), &records)?;
        let records = records
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Record>, _>>();
        records.context("a record of meter")
    }

    /// Runs all scenes in one emulated host with AIA.
    pub(crate) fn scale(&self, deadline: u64) -> Result<Vec<Sample>> {
        let work = self.work.join("scale");
        fs::create_dir_all(&work)?;
        let initramfs = work.join("initramfs");
        fs::write(&initramfs, self.initramfs(false)?)?;
        let guest = self
            .builds
            .join("../../riscv64gc-unknown-none-elf/release/guest");
        ensure!(
            guest.exists(),
            "{} is not built yet: make bench-scale does it",
            guest.display()
        );
        let mut files = self.files("hartvisor")?;
        files.extend([
            (guest, Path::new(FOLDER).join("guest")),
            (
                self.guest().join("vmlinux"),
                Path::new(FOLDER).join("kernel"),
            ),
            (initramfs, Path::new(FOLDER).join("initrd")),
        ]);
        let plan = ScalePlan {
            files,
            disks: (1..=scenes::DISKS)
                .map(|number| scenes::disk(number).into())
                .collect(),
            warm_up: scenes::warm_up(),
            scenes: scenes::all(),
        };
        let path = work.join("plan.json");
        fs::write(&path, serde_json::to_vec_pretty(&plan)?)?;
        let samples = self.meter(&["scale"], &path, true, deadline)?;
        let samples = samples.lines().map(serde_json::from_str);
        samples
            .collect::<Result<_, _>>()
            .context("a sample of meter")
    }

    /// Runs `meter` in an emulated host with one CPU and returns its output. The time limit is
    /// `deadline` seconds of this machine's time.
    fn meter(&self, words: &[&str], plan: &Path, aia: bool, deadline: u64) -> Result<String> {
        let mut command = Command::new(self.project.join("lab/run"));
        command
            .args(["--icount", "--isa", "sscofpmf=on", "--memory", "2G"])
            .args(["--host-kernel", self.host.name()])
            .args(["--timeout", &deadline.to_string()]);
        if aia {
            command.args(["--aia-guests", "2"]);
        }
        command
            .arg("--file")
            .arg(plan)
            .arg("--")
            .arg(self.builds.join("meter"))
            .args(words)
            .arg(plan);
        output(command.current_dir(&self.project))
    }

    fn plan(&self, case: &Case, seeds: u64, tests: &[Test], work: &Path) -> Result<Plan> {
        let initramfs = work.join("initramfs");
        fs::write(&initramfs, self.initramfs(case.net.is_some())?)?;
        let path = |name: &str| format!("{FOLDER}/{name}");
        let mut files = self.files(case.vmm)?;
        files.push((self.guest().join("vmlinux"), path("kernel").into()));
        files.push((initramfs, path("initrd").into()));
        let template = self.project.join("bench/vmm").join(case.vmm);
        let template =
            fs::read_to_string(&template).with_context(|| template.display().to_string())?;
        let wanted = template::Wanted {
            hugepages: case.hugepages,
            stats: case.stats,
            tap: case.net == Some(Net::Tap),
            passt: case.net == Some(Net::Passt),
        };
        let start = |seed: u64, measure, tests: &[Test]| {
            let tests: Vec<String> = tests.iter().map(Test::to_string).collect();
            let values = BTreeMap::from([
                ("root", path(case.vmm)),
                ("kernel", path("kernel")),
                ("initrd", path("initrd")),
                ("disk", path("disk")),
                ("tap", TAP.into()),
                ("passt", path("passt")),
                ("vsock", VSOCK.into()),
                ("memory", MEMORY.to_string()),
                ("cpus", case.cpus.to_string()),
                ("queues", case.queues.unwrap_or(case.cpus).to_string()),
                (
                    "cmdline",
                    format!(
                        "console=hvc0 earlycon=sbi panic=-1 {SEED}={seed} {TESTS}={}",
                        tests.join(",")
                    ),
                ),
            ]);
            anyhow::Ok(Start {
                measure,
                command: template::command(&template, &values, wanted)?,
                tests,
            })
        };
        let starts = (1..=seeds)
            .map(|seed| (seed, Measure::Time))
            .chain([(1, Measure::Count)]);
        Ok(Plan {
            files,
            disk: path("disk").into(),
            ram: MEMORY << 10,
            hugepages: if case.hugepages { MEMORY / 2 } else { 0 },
            network: case.net.map(network),
            passt: (case.net == Some(Net::Passt)).then(|| path("passt").into()),
            warm_up: start(0, Measure::Time, &cases::nothing())?,
            starts: starts
                .map(|(seed, measure)| start(seed, measure, tests))
                .collect::<Result<_>>()?,
        })
    }

    /// Returns the VMM's files, each with its path in the host.
    fn files(&self, vmm: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
        let root = Path::new(FOLDER).join(vmm);
        if vmm == "hartvisor" {
            return Ok(vec![(self.builds.join(vmm), root.join(vmm))]);
        }
        let folder = fs::read_dir(self.peer(vmm))?;
        folder
            .map(|entry| {
                entry
                    .map(|entry| (entry.path(), root.join(entry.file_name())))
                    .map_err(Into::into)
            })
            .collect()
    }

    /// Returns the guest's initramfs: its init, and modules of its kernel. For a network there are
    /// more of them, and busybox.
    fn initramfs(&self, network: bool) -> Result<Vec<u8>> {
        let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
        let mut archive = Archive::default();
        for folder in ["dev", "proc"] {
            archive.folder(folder);
        }
        // A Rust program opens it if stdin, stdout or stderr is closed.
        archive.device("dev/null", (1, 3));
        archive.file("init", &read(self.builds.join("load"))?);
        let modules = if network { MODULES.len() } else { ALWAYS };
        for module in MODULES.into_iter().take(modules) {
            let name = format!("{module}.ko");
            archive.file(&name, &read(self.guest().join("modules").join(&name))?);
        }
        if network {
            archive.file("busybox", &read(self.guest().join("busybox"))?);
        }
        Ok(archive.finish())
    }

    /// Returns the directory of the guest's kernel and modules.
    fn guest(&self) -> PathBuf {
        self.cache("host")
    }

    fn peer(&self, vmm: &str) -> PathBuf {
        self.cache("peers").join(vmm)
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.project.join("lab/cache").join(name)
    }
}

/// The commands that set up the host's network. No interface speaks by itself (IPv6). passt takes
/// the guest's address from the interface with the default route, and to the guest the router is the
/// host.
fn network(net: Net) -> String {
    let interface = match net {
        Net::Tap => "modprobe tun; tunctl -t vm0 >/dev/null; ip addr add 192.0.2.1/24 dev vm0",
        // It writes its socket as the user nobody.
        Net::Passt => {
            "modprobe dummy; ip link add vm0 type dummy; ip addr add 192.0.2.2/24 dev vm0; chmod 777 /tmp/bench"
        }
    };
    let route = match net {
        Net::Tap => "",
        Net::Passt => "; ip route add default via 192.0.2.1",
    };
    format!(
        "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; {interface}; ip link set vm0 up{route}"
    )
}

/// Returns the standard output of a command, which must succeed.
fn output(command: &mut Command) -> Result<String> {
    let null = File::open("/dev/null")?;
    let output = command
        .stdin(null)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
