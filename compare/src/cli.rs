//! The command line: the options of `hartvisor run`, and those of the comparison.
//!
//! The options of a run are parsed by hartvisor's own definition, so that a wrong one is refused at
//! once, and then passed on unchanged.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};

use vmm::cli::file;

use crate::clock::Clock;
use crate::error::Error;

const AFTER_HELP: &str = "\
The guest runs in every way that this machine supports: hartvisor on KVM (here, or in an emulated
host), hartvisor's devices under QEMU's CPU emulation, QEMU's own devices, and each --peer. Each
output is compared with that of the first way that ran. Times are compared only if they are from
one clock.

Exit status:
  0      all ways that ran agree: the same output and the same end
  1      they differ
  2      invalid usage or input
  3      nothing here can run the guest
  4      a failure of hartvisor compare itself
  128+n  ended by signal n

Examples:
  hartvisor compare --kernel guest --disk disk.img
  hartvisor compare --kernel Image --initrd initrd.cpio --cmdline 'console=hvc0 quiet' --runs 9 --html page.html
  hartvisor compare --kernel guest --lab 'lab/run --aia-guests 2' \\
      --peer 'plain=qemu-system-riscv64 -M virt -m {memory}M -nographic -no-reboot -kernel {kernel}' \\
      --peer 'lab:kvmtool=lab/cache/peers/kvmtool/lkvm run -k {kernel} -m {memory} -c {cpus}'";

/// Options of `hartvisor run` that a comparison sets itself, or that make no sense for it. They are
/// ignored in a `--config` file, which may be written for runs.
const NOT_HERE: [&str; 9] = [
    "accel",
    "devices",
    "firmware",
    "print-command",
    "dump-dtb",
    "pidfile",
    "stats",
    "trace",
    "rings",
];

/// The arguments of `hartvisor compare`.
#[derive(Debug, Parser)]
#[command(
    name = "hartvisor compare",
    bin_name = "hartvisor compare",
    version,
    about = "Run a guest in every way that this machine supports, and report differences",
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub struct Compare {
    /// The guest.
    #[command(flatten)]
    pub guest: vmm::cli::Run,

    /// The comparison.
    #[command(flatten)]
    pub options: Options,

    /// The guest's options as given, for `hartvisor run`, without its disks.
    #[arg(skip)]
    pub handed_on: Vec<String>,

    /// Its disks, as given.
    #[arg(skip)]
    pub disks: Vec<String>,
}

impl Compare {
    /// Returns the guest's kernel, which is required here.
    pub fn kernel(&self) -> &Path {
        let kernel = self.guest.kernel.as_ref();
        kernel.map_or(Path::new(""), |kernel| &kernel.path)
    }
}

/// How to compare.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparison")]
pub struct Options {
    /// Timed runs per way. One more run counts exits and requests
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,

    /// Longest time per run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Report the time until the guest prints a line with TEXT, instead of the time until its last
    /// line
    #[arg(long, value_name = "TEXT")]
    pub marker: Option<String>,

    /// Input typed into each run [default: none]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Ignore lines of the guest that contain TEXT; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub ignore: Vec<String>,

    /// Run the guest by COMMAND too, which may start any program. {kernel}, {initrd}, {cmdline},
    /// {memory} (MiB), {cpus} and {disk} (the first) are replaced; {{ is a brace. GROUP selects the
    /// runs that its time is compared with: kvm, lab (it runs in the emulated host) or tcg, the
    /// default
    #[arg(long = "peer", value_name = "[GROUP:]NAME=COMMAND", value_parser = Peer::parse)]
    pub peers: Vec<Peer>,

    /// The command that runs another in an emulated RISC-V KVM host: lab/run of hartvisor's
    /// sources, with its options. hartvisor's and hartvisor-compare's riscv64 builds must be on the
    /// PATH there [env: HARTVISOR_LAB]
    #[arg(long, value_name = "COMMAND")]
    pub lab: Option<String>,

    /// Write all observations to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with the table and pictures to FILE; the page needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// One `--peer` as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its group: the clock of its times, and where it runs.
    pub clock: Clock,
    /// Its name in the table.
    pub name: String,
    /// A [`crate::template`].
    pub command: String,
}

impl Peer {
    fn parse(text: &str) -> Result<Peer, String> {
        const FORM: &str = "expected [GROUP:]NAME=COMMAND";
        let (name, command) = text.split_once('=').ok_or(FORM)?;
        let (group, name) = name.split_once(':').unwrap_or(("tcg", name));
        let clock = match group {
            "kvm" => Clock::Kvm,
            "lab" => Clock::Lab,
            "tcg" => Clock::Tcg,
            _ => return Err(format!("unknown group {group:?}, expected kvm, lab or tcg")),
        };
        if name.is_empty() || command.trim().is_empty() {
            return Err(FORM.into());
        }
        Ok(Peer { clock, name: name.into(), command: command.into() })
    }
}

fn not_here(option: &clap::Arg) -> bool {
    option
        .get_long()
        .is_some_and(|name| NOT_HERE.contains(&name))
}

/// The definition of the command line.
pub fn command() -> Command {
    let given = Compare::command();
    given.mut_args(|option| {
        let hidden = not_here(&option);
        // Peers have a place for a kernel, none for firmware.
        let required = option.get_id() == "kernel";
        option.hide(hidden).required(required)
    })
}

/// Reads the arguments, the program's own name first. For help and version, prints them and ends
/// the program.
///
/// # Errors
/// One line that says what is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Compare, Error> {
    let arguments = arguments.into_iter().collect();
    let (arguments, config) = file::merge_for(command(), arguments, &NOT_HERE)?;
    let refuse = |error| refuse(error, config.as_deref());
    let matches = command().try_get_matches_from(arguments).map_err(refuse)?;
    let mut compare = Compare::from_arg_matches(&matches).map_err(refuse)?;
    if compare.options.lab.is_none() {
        let lab = std::env::var_os("HARTVISOR_LAB").filter(|it| !it.is_empty());
        compare.options.lab = lab.as_deref().map(text).transpose()?;
    }
    for (option, value) in given(&matches)? {
        let id = option.get_id().as_str();
        if not_here(&option) {
            let name = option.get_long().unwrap_or(id);
            let problem =
                format!("hartvisor compare has no option --{name} (see hartvisor compare --help)");
            return Err(Error::Usage(problem));
        }
        match (id, option.get_long(), value) {
            ("disks", _, Some(value)) => compare.disks.push(value),
            // Its content was passed on already.
            ("config", ..) => {}
            (_, Some(name), Some(value)) => compare.handed_on.push(format!("--{name}={value}")),
            (_, Some(name), None) => compare.handed_on.push(format!("--{name}")),
            _ => {}
        }
    }
    Ok(compare)
}

/// The given options of a run, in the order of their definition.
fn given(matches: &ArgMatches) -> Result<Vec<(clap::Arg, Option<String>)>, Error> {
    let run = vmm::cli::Run::augment_args(Command::new("run"));
    let mut given = Vec::new();
    for option in run.get_arguments() {
        let id = option.get_id().as_str();
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if matches!(option.get_action(), ArgAction::SetTrue) {
            given.push((option.clone(), None));
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            given.push((option.clone(), Some(text(value)?)));
        }
    }
    Ok(given)
}

/// An argument as text.
///
/// # Errors
/// It is not UTF-8.
pub fn text(value: &OsStr) -> Result<String, Error> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::NotText(value.into()))
}

/// An error of clap in one line. Help and version are not errors: they are printed. `config` is a
/// file that is part of the arguments.
fn refuse(error: clap::Error, config: Option<&Path>) -> Error {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let kept = text
        .split("\n\n")
        .filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let kept: Vec<_> = kept
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let with = config.map_or(String::new(), |path| format!("with --config {path:?}: "));
    Error::Usage(format!(
        "{with}{} (see hartvisor compare --help)",
        kept.join("; ").trim()
    ))
}

#[cfg(test)]
#[path = "cli_test.rs"]
mod tests;
