//! The emulated host: this program sends a plan, runs it there, and gets the observations back as
//! lines of JSON.
//!
//! So the time of a run is that of the emulated host's clock, from the start of the VMM there, not
//! that of its boot.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::{Compare, text};
use crate::error::Error;
use crate::observe::{self, Signals, once};
use crate::plan::{Ending, Plan, Run};
use vmm::config::CloudInit;

/// The argument with which this program runs inside the host.
pub const OBSERVE: &str = "observe";
/// The name of the program there.
const PROGRAM: &str = "hartvisor-compare";
/// Seconds for the host itself to start and end.
const HOST: u64 = 120;
/// Most bytes of the observations, as JSON.
const OUTPUT_MAX: usize = 64 << 20;

/// Runs a plan in the emulated host that `lab` starts. `directory` is the directory for its file.
///
/// # Errors
/// No command, the host fails, or a signal arrived.
pub fn run(
    lab: &str,
    plan: &Plan,
    compare: &Compare,
    directory: &Path,
    signals: &Signals,
) -> Result<Vec<Run>, Error> {
    let file = directory.join("plan.json");
    let json = serde_json::to_vec(plan).map_err(|error| Error::Lab(error.to_string()))?;
    fs::write(&file, json).map_err(|source| Error::File {
        what: "write",
        path: file.clone(),
        source,
    })?;
    let timeout = HOST + plan.timeout * (u64::from(plan.runs) + 1);
    let mut command = shell_words::split(lab)
        .map_err(|_| Error::Usage(format!("--lab {lab:?}: unclosed quote")))?;
    command.extend(["--timeout".into(), timeout.to_string()]);
    for path in files(compare, plan).into_iter().chain([file.clone()]) {
        command.extend(["--file".into(), text(path.as_os_str())?]);
    }
    let inner = ["--", PROGRAM, OBSERVE].map(String::from);
    command.extend(inner.into_iter().chain([text(file.as_os_str())?]));
    let outer = Plan {
        command,
        counting: None,
        runs: 1,
        timeout: timeout + HOST,
        input: None,
        copies: Vec::new(),
        ram: 0,
    };
    let seen = once(&outer, false, OUTPUT_MAX, signals)?;
    match seen.ending {
        Ending::Status(0) => {}
        // From the shell that starts it.
        Ending::Status(127) if seen.messages.contains(PROGRAM) => {
            return Err(Error::NotBuilt { program: PROGRAM });
        }
        ending => {
            let last = seen.messages.lines().last().unwrap_or("it printed nothing");
            return Err(Error::Lab(format!("{last} ({ending})")));
        }
    }
    let runs = seen
        .lines
        .iter()
        .map(|line| serde_json::from_str(&line.text));
    runs.collect::<Result<_, _>>()
        .map_err(|error| Error::Lab(error.to_string()))
}

/// The files of the guest and their link targets, which the host must mount.
fn files(compare: &Compare, plan: &Plan) -> BTreeSet<PathBuf> {
    let guest = &compare.guest;
    let options = [
        guest.kernel.as_ref().map(|kernel| &kernel.path),
        guest.initrd.as_ref(),
        guest.dtb.as_ref(),
    ];
    let disks = guest.disks.iter().map(|disk| &disk.path);
    let cloud_init = guest.cloud_init.iter().flat_map(CloudInit::files);
    let cloud_init = cloud_init.map(|(_, path)| path);
    let copies = plan.copies.iter().map(|(from, _)| from);
    let named = options
        .into_iter()
        .flatten()
        .chain(disks)
        .chain(cloud_init)
        .chain(copies)
        .chain(&plan.input);
    named
        .flat_map(|path| [std::path::absolute(path).ok(), fs::canonicalize(path).ok()])
        .flatten()
        // The directories of this machine must not hide those of the emulated host.
        .filter(|path| !path.starts_with("/dev") && path.exists())
        .collect()
}

/// Inside the host: runs the plan in a file, and writes the observations to standard output, one
/// line of JSON each.
///
/// # Errors
/// The file contains no plan, or its command cannot be started.
pub fn observe(plan: &Path) -> Result<(), Error> {
    let file = File::open(plan).map_err(|source| Error::File {
        what: "read",
        path: plan.into(),
        source,
    })?;
    let read: Plan = serde_json::from_reader(file).map_err(|source| Error::Json {
        what: "a plan",
        path: plan.into(),
        source,
    })?;
    let signals = Signals::catch()?;
    observe::observe(&read, &signals, |run| {
        let failed = |source| Error::Host { what: "write to stdout", source };
        let mut line = serde_json::to_vec(&run).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        std::io::stdout().write_all(&line).map_err(failed)
    })
}
