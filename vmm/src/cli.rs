//! The command line: `hartvisor run …`, `hartvisor vhost-user …`, `hartvisor compare …`, `hartvisor check`. The doc comments of the fields are the help texts.
//!
//! Only the form of the values is looked at here; whether they make a machine is for [`crate::config`] to say.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::config::{self, Accel, Devices, Disk, Irqchip, Kernel, Memory, Port, Target};
use crate::error::Error;
use crate::files::FileError;
use crate::isa::{ISA_EXTENSIONS, SBI_EXTENSIONS, Switch};
use crate::layout::MAX_CPUS;

pub mod file;
mod rings;
mod trace;
mod values;
mod vhost_user;

pub use rings::Rings;
pub use trace::Trace;
pub use vhost_user::VhostUser;

const AFTER_HELP: &str = "\
Exit status:
  0      the guest powered off, or was left with Ctrl-a x
  1      the guest reported a failure (SBI SRST, reason 1)
  2      usage, or bad input
  3      this host cannot (no KVM, no permission, no QEMU)
  4      a failure of hartvisor itself
  5      the guest's kernel panicked and said so (pvpanic, on KVM only: QEMU's virt has none)
  128+n  ended by signal n

Environment:
  HARTVISOR_LOG   off, error, warn (default), info, debug or trace, to stderr
  HARTVISOR_QEMU  the QEMU to run instead of qemu-system-riscv64";

const RUN_EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img
  hartvisor run --kernel Image --initrd initrd.cpio --cmdline 'console=hvc0' \\
      --cpus 2 --memory 1G --disk root.ext4,serial=root --disk tools.img,readonly
  hartvisor run --kernel Image --memory 2G,hugepages=auto --irqchip aia --cpu zbb=off
  hartvisor run --kernel vmlinuz.gz --initrd initrd.img --cmdline 'console=hvc0'
  hartvisor run --kernel u-boot.bin,format=raw --disk root.img
  hartvisor run --config vm.toml --memory 2G --pidfile /run/vm.pid
  hartvisor run --kernel guest --dump-dtb /dev/stdout | dtc -I dtb
  hartvisor run --kernel Image --cmdline console=ttyS0 --console null --serial pty
  hartvisor run --kernel Image --console socket:/run/guest.sock --serial file:boot.log
  hartvisor run --kernel Image --port name=org.example.agent,target=socket:/run/agent.sock
  hartvisor run --kernel guest --disk disk.img --stats - --trace trace.json --rings rings.json
  hartvisor run --kernel guest --accel qemu
  hartvisor run --kernel guest --print-command

A distribution's kernel that stays silent: --cmdline 'console=ttyS0 earlycon=sbi' needs no module, where
console=hvc0 needs virtio_mmio.

At a terminal, Ctrl-a x leaves the guest, Ctrl-a h shows what else there is.";

const DISK_HELP: &str = "\
A disk image or block device; may be given up to 26 times (27 with --no-rng), under QEMU 6 (7). A comma in FILE is written twice. Further keys:";

const RESIZE_HELP: &str = "\
After SIGUSR2 the sizes of all raw disks are looked at again, and the guest is told of new ones (KVM only)";

/// A microVM monitor for RISC-V: boots a guest on KVM, or the same guest under QEMU where there is no RISC-V KVM.
#[derive(Debug, Parser)]
#[command(name = "hartvisor", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a guest until it powers off
    Run(Box<Run>),
    /// Serve a virtio device on a socket, to a front end such as QEMU
    VhostUser(VhostUser),
    /// Run a guest in every way there is here, and say what differs
    #[command(disable_help_flag = true)]
    Compare(Compare),
    /// Look at what run --trace wrote
    #[command(subcommand)]
    Trace(Trace),
    /// Draw the rings that run --rings wrote
    Rings(Rings),
    /// Say what this host offers, what is missing and why
    Check,
}

/// What `hartvisor compare` was asked for: `hartvisor-compare` reads it.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// The options of hartvisor run, and those of the comparison: hartvisor compare --help has them
    #[arg(
        value_name = "OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

/// What `hartvisor run` was asked for.
#[derive(Clone, Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct Run {
    /// The kernel, recognised by its content: a flat Linux Image, or a RISC-V 64-bit ELF (loaded at its physical addresses),
    /// each plain or packed by gzip, zstd or EFI zboot. format=elf or image insists on one; format=raw takes the bytes as
    /// they are, to 0x80200000. A comma in FILE is written twice
    #[arg(
        long,
        value_name = "FILE[,format=FORMAT]",
        value_parser = OsStringValueParser::new().try_map(|text| Kernel::parse(&text))
    )]
    pub kernel: Kernel,

    /// The initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, passed unchanged
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub cmdline: String,

    /// A device tree (DTB) to give to the guest instead of the one that describes this machine: as it is, but for /chosen,
    /// where --cmdline, if not empty, becomes bootargs, and --initrd its start and end
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,

    /// Write the device tree that the guest would get, as a DTB, and end without starting it
    #[arg(long, value_name = "FILE", conflicts_with = "print_command")]
    pub dump_dtb: Option<PathBuf>,

    /// Number of vCPUs
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = parse_cpus,
        allow_negative_numbers = true
    )]
    pub cpus: u32,

    /// RAM: a multiple of 2M, at least 16M (256M, 1.5G, or a number of bytes). hugepages: on takes it from the host's
    /// huge pages of 2M, auto does if enough are free. prealloc takes all of it at the start, shared makes it a file
    /// that other processes can map
    #[arg(
        long,
        value_name = "[size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]",
        default_value = "256M",
        value_parser = Memory::parse,
        allow_hyphen_values = true
    )]
    pub memory: Memory,

    /// The interrupt controller: auto is KVM's AIA where it works, else a PLIC (under QEMU a PLIC)
    #[arg(long, value_enum, default_value_t = Irqchip::Auto)]
    pub irqchip: Irqchip,

    /// Gives or takes ISA extensions. What KVM cannot take away is hidden from the device tree, with a warning
    #[arg(
        long = "cpu",
        value_name = "EXT=on|off[,...]",
        value_delimiter = ',',
        value_parser = |text: &str| Switch::parse(text, &ISA_EXTENSIONS)
    )]
    pub isa: Vec<Switch>,

    /// Gives or takes SBI extensions, such as pmu=off (KVM only)
    #[arg(
        long,
        value_name = "EXT=on|off[,...]",
        value_delimiter = ',',
        value_parser = |text: &str| Switch::parse(text, &SBI_EXTENSIONS)
    )]
    pub sbi: Vec<Switch>,

    /// The disks.
    #[arg(
        long = "disk",
        help = format!("{DISK_HELP} {} {RESIZE_HELP}", Disk::help()),
        value_name = "FILE[,readonly][,serial=TEXT][,KEY=VALUE]",
        value_parser = OsStringValueParser::new().try_map(|text| Disk::parse(&text))
    )]
    pub disks: Vec<Disk>,

    /// Take options from a TOML or JSON file (by its extension, else by its content), under the same names: kernel = "Image",
    /// disk = ["a.img", "b.img,readonly"], print-command = true. What is given here overrides what the file says.
    /// Relative paths in it are relative to the current folder, as here
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write the process id to FILE once everything is checked, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Count exits, register accesses, requests, bytes and times, and write them at the end and at SIGUSR1: as JSON to FILE,
    /// which is replaced each time, or as a table to stderr (-)
    #[arg(long, value_name = "FILE|-", allow_hyphen_values = true)]
    pub stats: Option<PathBuf>,

    /// Write what vCPUs and devices do to FILE, with time and thread, in the format of Chrome's traces, which Perfetto
    /// (ui.perfetto.dev) and hartvisor trace show read. What comes faster than it is written is lost, and counted there
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Write what the queues' rings hold to FILE, for hartvisor rings: at the end and at SIGUSR1, and as they were at the
    /// kick that found most in flight
    #[arg(long, value_name = "FILE")]
    pub rings: Option<PathBuf>,

    /// No virtio source of random numbers, which is there otherwise
    #[arg(long)]
    pub no_rng: bool,

    /// What the virtio console (hvc0) leads to: stdio, a new pseudo-terminal (its path is printed), a file (emptied
    /// first), a Unix socket (one client at a time; without one, output is dropped), or nothing
    #[arg(
        long,
        value_name = "stdio|pty|file:PATH|socket:PATH|null",
        default_value = "stdio",
        value_parser = OsStringValueParser::new().try_map(|text| Target::parse(&text))
    )]
    pub console: Target,

    /// What the serial port (ttyS0) and the SBI console lead to, likewise. Where both are stdio, what is typed goes to
    /// the serial port while the guest has that open; under QEMU to the virtio console, and Ctrl-a c changes that
    #[arg(
        long,
        value_name = "stdio|pty|file:PATH|socket:PATH|null",
        default_value = "stdio",
        value_parser = OsStringValueParser::new().try_map(|text| Target::parse(&text))
    )]
    pub serial: Target,

    /// A port of the virtio console, for a program in the guest to talk to one here by (/dev/virtio-ports/NAME in Linux).
    /// The target is as for --console. Nothing is lost on a port: who writes waits for who reads. May be given up to
    /// 30 times. A comma in a value is written twice
    #[arg(
        long = "port",
        value_name = "name=NAME,target=pty|file:PATH|socket:PATH|null",
        value_parser = OsStringValueParser::new().try_map(|text| Port::parse(&text))
    )]
    pub ports: Vec<Port>,

    /// End when the guest reboots, with this exit status (0 unless given), instead of starting it anew. A Linux guest that
    /// panics reboots with panic=-1 in --cmdline
    #[arg(
        long,
        value_name = "STATUS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0"
    )]
    pub no_reboot: Option<u8>,

    /// What runs the guest; auto takes KVM where it can run RISC-V guests, else QEMU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,

    /// Whose disks and random numbers a guest under QEMU has
    #[arg(long, value_enum, default_value_t = Devices::Ours)]
    pub devices: Devices,

    /// Print the QEMU command that runs this guest, for a shell, instead of running it
    #[arg(long)]
    pub print_command: bool,
}

impl From<Run> for config::Run {
    fn from(run: Run) -> Self {
        config::Run {
            machine: config::Machine {
                kernel: run.kernel,
                initrd: run.initrd,
                cmdline: run.cmdline,
                dtb: run.dtb,
                cpus: run.cpus,
                memory: run.memory,
                irqchip: run.irqchip,
                isa: run.isa,
                sbi: run.sbi,
                disks: run.disks,
                rng: !run.no_rng,
                console: run.console,
                serial: run.serial,
                ports: run.ports,
                devices: run.devices,
                no_reboot: run.no_reboot,
            },
            accel: run.accel,
            dump_dtb: run.dump_dtb,
            print_command: run.print_command,
            pidfile: run.pidfile,
            observe: config::Observe {
                stats: run.stats,
                trace: run.trace,
                rings: run.rings,
            },
        }
    }
}

/// A number of vCPUs; whether a board can have so many is not asked here.
fn parse_cpus(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 1 to {MAX_CPUS}"))
}

/// What came of reading the command line.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Command(Command),
    /// Help or version was asked for: print it and end well.
    Text(clap::Error),
}

/// Reads the arguments, the program's own name first. Errors are one line, clap's usage paragraphs left out.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
    let (arguments, config) = file::merge(arguments.into_iter().collect())?;
    if let Some(run) = run_alone(&arguments) {
        return Ok(Parsed::Command(Command::Run(Box::new(run))));
    }
    let usage = |text: String| match &config {
        None => Error::Usage(text),
        Some(path) => FileError::content("config", path, text),
    };
    let help = match arguments.get(1) {
        Some(command) if command == "vhost-user" => "hartvisor vhost-user --help",
        Some(command) if command == "trace" => "hartvisor trace --help",
        Some(command) if command == "rings" => "hartvisor rings --help",
        _ => "hartvisor run --help",
    };
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => Ok(Parsed::Command(cli.command)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Text(error)),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                Err(Error::Usage(
                    "nothing to do, expected a command: run, vhost-user, compare, trace, rings or check (see hartvisor --help)".into(),
                ))
            }
            _ => Err(usage(one_line(&error.to_string(), help))),
        },
    }
}

/// What a `hartvisor run` without a fault says, read without the definitions of the other commands: they are a fifth of what reading
/// costs. Faults, and calls for help, are for the whole definition to answer.
fn run_alone(arguments: &[OsString]) -> Option<Run> {
    let options = arguments.get(1..)?;
    if options.first()? != "run" {
        return None;
    }
    let run = Run::augment_args(clap::Command::new("run")).disable_help_flag(true);
    let mut matches = run.try_get_matches_from(options).ok()?;
    Run::from_arg_matches_mut(&mut matches).ok()
}

/// Clap's message without "error: ", without its usage and help paragraphs, in one line.
fn one_line(message: &str, help: &str) -> String {
    let kept = message
        .strip_prefix("error: ")
        .unwrap_or(message)
        .split("\n\n")
        .filter(|paragraph| {
            !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information")
        })
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty())
        .collect::<Vec<_>>();
    format!("{} (see {help})", kept.join("; "))
}

#[cfg(test)]
#[path = "cli_test.rs"]
mod tests;
