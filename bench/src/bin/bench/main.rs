//! Runs measurements and processes results. `make bench`, similar make targets and `bench/compare`
//! call it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal"
)]

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use bench::results::{Results, summarize};
use bench::{compare, table};
use cases::Case;
use clap::{Args, Parser, Subcommand};
use lab::{HostKernel, Lab};

mod cases;
mod lab;
mod plot;
mod scenes;

/// Measures hartvisor and its peers in the emulated RISC-V KVM host.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, print the table, and save the results as JSON under bench/results
    Run(Run),
    /// Measure how costs grow with VMs, disks, memory and vCPUs; print and save as `run` does
    Scale(Scale),
    /// Draw saved results of `scale` as SVG, to standard output
    Plot {
        /// Saved results
        file: PathBuf,
    },
    /// Print the table of saved results
    Table {
        /// Saved results
        file: PathBuf,
    },
    /// Print what changed by more than 2 % between two saved results
    Compare {
        /// The older results
        old: PathBuf,
        /// The newer results
        new: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Hartvisor only, one vCPU, few operations
    #[arg(long)]
    quick: bool,

    /// Only the case with this name in the table ("qemu aia"); may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Start, memory and exit only
    #[arg(long)]
    boot: bool,

    /// The network and the socket device only
    #[arg(long, conflicts_with_all = ["quick", "boot"])]
    net: bool,

    /// Starts that measure time, of which the median is used [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,

    /// Concurrent emulated hosts, each of which keeps one CPU busy [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// The emulated host's kernel
    #[arg(long, value_enum, default_value = "host")]
    host_kernel: HostKernel,

    /// Time limit of a case in seconds of the emulator's process time
    #[arg(long, value_name = "SECS", default_value_t = 1800)]
    timeout: u64,

    /// Save the JSON to FILE instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Scale {
    /// The emulated host's kernel
    #[arg(long, value_enum, default_value = "host")]
    host_kernel: HostKernel,

    /// Time limit in seconds of the emulator's process time
    #[arg(long, value_name = "SECS", default_value_t = 1800)]
    timeout: u64,

    /// Save the JSON to FILE instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(run) => measure(&run),
        Command::Scale(options) => scale(&options),
        Command::Plot { file } => {
            print!("{}", plot::draw(&read(&file)?)?);
            Ok(())
        }
        Command::Table { file } => {
            print!("{}", table::show(&read(&file)?));
            Ok(())
        }
        Command::Compare { old, new } => {
            let (old, new) = (read(&old)?, read(&new)?);
            if old.kernel != new.kernel {
                println!("host kernels: {} and {}", old.kernel, new.kernel);
            }
            print!("{}", compare::show(&compare::moved(&old, &new)));
            Ok(())
        }
    }
}

fn measure(options: &Run) -> Result<()> {
    let lab = Lab::open(options.host_kernel)?;
    let seeds = options.seeds.unwrap_or(if options.quick { 1 } else { 3 });
    let results = nothing_yet(&lab, seeds)?;
    let wanted = |case: &Case| options.only.is_empty() || options.only.contains(&case.name());
    let tests = |case: &Case| match case.net {
        Some(_) => cases::transfers(case),
        None if options.boot => cases::nothing(),
        None => cases::tests(options.quick),
    };
    let suffix = match options {
        Run { net: true, .. } => "-net",
        Run { boot: true, .. } => "-boot",
        Run { quick: true, .. } => "-quick",
        _ => "",
    };
    let out = options.out.clone();
    let out = out.unwrap_or_else(|| {
        lab.results().join(format!(
            "{}{suffix}{}.json",
            results.commit,
            mark(options.host_kernel)
        ))
    });
    // A case given by name may be one that a quick run skips.
    let every = match options.net {
        true => cases::networks(),
        false => cases::all(options.quick && options.only.is_empty()),
    };
    let cases = every.into_iter().filter(wanted);
    let cases: Vec<Case> = cases.filter(|case| here(&lab, case)).collect();
    let jobs = options
        .jobs
        .map_or_else(thread::available_parallelism, Ok)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            eprintln!("bench: {}", case.name());
            let records = lab.run(case, seeds, &tests(case), options.timeout)?;
            let mut metrics = summarize(&records);
            metrics.extend(lab.binary(case.vmm)?);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.cases.insert(case.name(), metrics);
            // Save after each case, so that results are kept if a later case fails.
            keep(&out, &results)?;
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(work)).collect();
        let join = |worker: ScopedJoinHandle<'_, _>| worker.join().map_err(|_| anyhow!("panicked"));
        workers.into_iter().try_for_each(|worker| join(worker)?)
    })?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    print!("{}", table::show(&results));
    eprintln!("bench: kept as {}", out.display());
    Ok(())
}

fn scale(options: &Scale) -> Result<()> {
    let lab = Lab::open(options.host_kernel)?;
    let mut results = nothing_yet(&lab, 1)?;
    let scenes = scenes::all();
    let samples = lab.scale(options.timeout)?;
    ensure!(
        samples.len() == scenes.len(),
        "{} scenes were planned and {} played",
        scenes.len(),
        samples.len()
    );
    for (scene, sample) in scenes.iter().zip(&samples) {
        let metrics = bench::scale::summarize(scene, sample);
        results.cases.insert(scene.name.clone(), metrics);
    }
    let name = format!("{}-scale{}.json", results.commit, mark(options.host_kernel));
    let out = options.out.clone();
    let out = out.unwrap_or_else(|| lab.results().join(name));
    keep(&out, &results)?;
    print!("{}", table::show(&results));
    eprintln!("bench: kept as {}", out.display());
    Ok(())
}

/// Returns a file name suffix that tells results of different host kernels apart.
fn mark(host: HostKernel) -> &'static str {
    match host {
        HostKernel::Host => "",
        HostKernel::Next => "-next",
    }
}

/// Returns empty results for the installed versions.
fn nothing_yet(lab: &Lab, seeds: u64) -> Result<Results> {
    let (kernel, guest) = (lab.host_kernel()?, lab.guest_kernel()?);
    Ok(Results {
        commit: lab.commit()?,
        emulator: lab.emulator()?,
        guest_kernel: (guest != kernel).then_some(guest),
        kernel,
        seeds,
        ..Results::default()
    })
}

fn keep(path: &Path, results: &Results) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(results)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}

/// Whether the case's VMM is installed. Prints a line if not.
fn here(lab: &Lab, case: &Case) -> bool {
    let here = lab.has(case.vmm);
    if !here {
        eprintln!(
            "bench: no {0} in lab/cache/peers/{0}: {1} is left out",
            case.vmm,
            case.name()
        );
    }
    here
}

fn read(path: &Path) -> Result<Results> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} holds no results", path.display()))
}
