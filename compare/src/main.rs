//! `hartvisor-compare`, which `hartvisor compare` starts. Runs the guest in each way, and prints
//! the results.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use compare::cli::{self, Compare};
use compare::clock::Clock;
use compare::error::Error;
use compare::observe::{Signals, observe};
use compare::report::{Report, Seen, Setting};
use compare::ways::{Place, Way};
use compare::{lab, page, table, ways};

fn main() -> ExitCode {
    match hartvisor_compare() {
        Ok(true) => 0.into(),
        Ok(false) => 1.into(),
        Err(error) => {
            // Nothing can be reported if stderr is full or closed.
            let _ = writeln!(io::stderr(), "hartvisor compare: {}", error.chain());
            error.exit_code().into()
        }
    }
}

/// Whether all ways that ran agree.
fn hartvisor_compare() -> Result<bool, Error> {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, first, plan] = arguments.as_slice()
        && first == lab::OBSERVE
    {
        return lab::observe(Path::new(plan)).map(|()| true);
    }
    let compare = cli::parse(arguments)?;
    let directory = tempfile::tempdir()
        .map_err(|source| Error::Host { what: "make a temporary directory", source })?;
    let hartvisor = hartvisor();
    let place = Place { directory: directory.path(), hartvisor: &hartvisor };
    let ways = ways::all(&compare, &place)?;
    let signals = Signals::catch()?;
    let mut seen = Vec::new();
    let count = ways.len();
    for (index, way) in ways.into_iter().enumerate() {
        let name = format!(
            "{} of {count}: {} ({})",
            index + 1,
            way.name,
            way.clock.title()
        );
        let progress = Progress { name, runs: compare.options.runs };
        seen.push(run(way, &compare, directory.path(), &signals, &progress)?);
    }
    Progress::end();
    let report = Report::new(setting(&compare), seen);
    // A closed stdout is not an error.
    let _ = io::stdout().write_all(table::show(&report).as_bytes());
    keep(&compare, &report)?;
    match report.ran().next() {
        Some(_) => Ok(report.agree),
        None => Err(Error::NoWay),
    }
}

/// Runs the guest in one way. A way that fails is not an error of the comparison.
fn run(
    way: Way,
    compare: &Compare,
    directory: &Path,
    signals: &Signals,
    progress: &Progress,
) -> Result<Seen, Error> {
    let mut seen = Seen {
        name: way.name,
        clock: way.clock,
        ours: way.ours,
        command: Vec::new(),
        runs: Err(String::new()),
    };
    let plan = match way.plan {
        Ok(plan) => plan,
        Err(why) => {
            seen.runs = Err(why);
            return Ok(seen);
        }
    };
    seen.command.clone_from(&plan.command);
    progress.begin();
    let runs = match (&compare.options.lab, way.clock) {
        (Some(lab), Clock::Lab) => lab::run(lab, &plan, compare, directory, signals),
        _ => {
            let mut runs = Vec::new();
            let take = |run| {
                runs.push(run);
                progress.ran(runs.len());
                Ok(())
            };
            observe(&plan, signals, take).map(|()| runs)
        }
    };
    seen.runs = match runs {
        Ok(runs) => Ok(runs),
        Err(error @ (Error::Start { .. } | Error::Lab(_) | Error::NotBuilt { .. })) => {
            Err(error.chain())
        }
        Err(error) => return Err(error),
    };
    Ok(seen)
}

/// Writes the requested files.
fn keep(compare: &Compare, report: &Report) -> Result<(), Error> {
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|source| Error::File {
            what: "write",
            path: path.into(),
            source,
        })
    };
    if let Some(path) = &compare.options.json {
        let json = serde_json::to_string(report).map_err(|error| Error::Host {
            what: "make JSON of the report",
            source: error.into(),
        })?;
        write(path, json + "\n")?;
    }
    if let Some(path) = &compare.options.html {
        write(path, page::page(report)?)?;
    }
    Ok(())
}

fn setting(compare: &Compare) -> Setting {
    let (guest, options) = (&compare.guest, &compare.options);
    Setting {
        kernel: compare.kernel().display().to_string(),
        cmdline: guest.cmdline.clone(),
        cpus: guest.cpus,
        memory: guest.memory.size,
        runs: options.runs,
        marker: options.marker.clone(),
        ignore: options.ignore.clone(),
    }
}

/// The `hartvisor` in the directory of this program, else the one on the PATH.
fn hartvisor() -> PathBuf {
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|path| path.with_file_name("hartvisor"));
    let beside = beside.filter(|path| path.exists());
    beside.unwrap_or_else(|| "hartvisor".into())
}

/// Shows which way runs.
struct Progress {
    /// The way: "2 of 3: hartvisor (KVM of this machine)".
    name: String,
    /// The number of its timed runs. One that counts follows.
    runs: u32,
}

impl Progress {
    /// Before the first run.
    fn begin(&self) {
        if io::stderr().is_terminal() {
            self.ran(0);
        } else {
            let _ = writeln!(io::stderr(), "hartvisor compare: {}", self.name);
        }
    }

    /// After run `number`, from 1: at a terminal, in a line that the next one replaces.
    fn ran(&self, number: usize) {
        if io::stderr().is_terminal() {
            let (done, all) = (number, self.runs + 1);
            let _ = write!(io::stderr(), "\r\x1b[K{}: {done} of {all} runs", self.name);
        }
    }

    /// Removes the line.
    fn end() {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
