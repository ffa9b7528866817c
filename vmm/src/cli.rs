//! The command line: `hartvisor run …`, `hartvisor vhost-user …`, `hartvisor compare …`, `hartvisor
//! check`. The doc comments of the fields are the help texts.
//!
//! Only the form of the values is checked here. [`crate::config`] checks whether they form a valid
//! machine.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::config::{
    self, Accel, Balloon, CloudInit, Devices, Disk, Irqchip, Kernel, Memory, Net, Port, Remote,
    Share, Target, Vsock,
};
use crate::error::Error;
use crate::host::files::FileError;
use crate::isa::{ISA_EXTENSIONS, SBI_EXTENSIONS, Switch};
use crate::layout::MAX_CPUS;

pub mod file;
mod help;
mod rings;
mod trace;
mod values;
mod vhost_user;

use help::{AFTER_HELP, DISK_HELP, RESIZE_HELP, RUN_EXAMPLES};
pub use rings::Rings;
pub use trace::Trace;
pub use vhost_user::VhostUser;

/// A microVM monitor for RISC-V: boots a guest on KVM, or the same guest under QEMU on hosts
/// without RISC-V KVM.
#[derive(Debug, Parser)]
#[command(name = "hartvisor", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// The command.
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
    /// Run a guest in every way that this machine supports, and report differences
    #[command(disable_help_flag = true)]
    Compare(Compare),
    /// Examine a trace written by run --trace
    #[command(subcommand)]
    Trace(Trace),
    /// Draw the rings recorded by run --rings
    Rings(Rings),
    /// Report what this host offers, what is missing and why
    Check(Check),
}

/// The arguments of `hartvisor check`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Check {
    /// Print the report as one JSON object. Its field "auto" is the accelerator that --accel auto
    /// uses: "kvm", "qemu" or null
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `hartvisor compare`. `hartvisor-compare` parses them.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// The options of hartvisor run and of the comparison; see hartvisor compare --help
    #[arg(
        value_name = "OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

/// The arguments of `hartvisor run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct Run {
    /// The kernel: a flat Linux Image, or a RISC-V 64-bit ELF (loaded at its physical addresses),
    /// uncompressed or compressed by gzip, zstd or EFI zboot. The format is detected from the
    /// content; format=elf or image accepts only that one. format=raw loads the file unchanged at
    /// 0x80200000. Double a comma in FILE
    #[arg(
        long,
        value_name = "FILE[,format=FORMAT]",
        value_parser = OsStringValueParser::new().try_map(|text| Kernel::parse(&text))
    )]
    pub kernel: Option<Kernel>,

    /// Firmware that boots a disk, instead of --kernel: an ELF or a flat binary that runs in S-mode
    /// at 0x80200000, such as U-Boot for QEMU. The default, if --kernel is not given either, is
    /// u-boot.bin in hartvisor's directory, in ../share/hartvisor from there, or in Debian's package
    /// u-boot-qemu. Firmware uses the serial port, so under QEMU --console then defaults to null
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// The initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, passed on unchanged
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub cmdline: String,

    /// A device tree (DTB) for the guest, instead of the generated one. It is used as is, except
    /// /chosen: --cmdline, if not empty, sets bootargs, and --initrd sets the initrd's addresses
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,

    /// Write the guest's device tree to FILE as a DTB, and exit without starting the guest
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

    /// RAM: a multiple of 2M, at least 16M (256M, 1.5G, or a number of bytes). hugepages=on uses
    /// the host's 2M huge pages, auto uses them if enough are free. prealloc allocates all of it at
    /// the start. shared uses a file that other processes can map
    #[arg(
        long,
        value_name = "[size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]",
        default_value = "256M",
        value_parser = Memory::parse,
        allow_hyphen_values = true
    )]
    pub memory: Memory,

    /// The interrupt controller: auto is KVM's AIA if it works, else a PLIC (under QEMU, a PLIC)
    #[arg(long, value_enum, default_value_t = Irqchip::Auto)]
    pub irqchip: Irqchip,

    /// Enable or disable ISA extensions. One that KVM cannot enable is an error; one that it cannot
    /// disable is removed from the device tree, with a warning
    #[arg(
        long = "cpu",
        value_name = "EXT=on|off[,...]",
        value_delimiter = ',',
        value_parser = |text: &str| Switch::parse(text, &ISA_EXTENSIONS)
    )]
    pub isa: Vec<Switch>,

    /// Enable or disable SBI extensions, such as pmu=off. KVM only: an error under QEMU
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

    /// Add a read-only disk for cloud-init (its NoCloud data source), made from these files, after
    /// the other disks. ssh-key is a public key for the image's default user; without user-data, it
    /// makes the user data. Without meta-data, the instance ID is a hash of the contents. Double a
    /// comma in FILE
    #[arg(
        long,
        value_name = "user-data=FILE[,meta-data=FILE][,ssh-key=FILE]",
        value_parser = OsStringValueParser::new().try_map(|text| CloudInit::parse(&text))
    )]
    pub cloud_init: Option<CloudInit>,

    /// The network cards.
    #[arg(
        long = "net",
        help = Net::help(),
        value_name = "tap=NAME|fd=N|passt|none[,mac=MAC][,KEY=VALUE]",
        value_parser = OsStringValueParser::new().try_map(|text| Net::parse(&text).map(OrNone))
    )]
    pub nets: Vec<OrNone<Net>>,

    /// A socket device (AF_VSOCK). Host programs reach port P of the guest through the Unix socket
    /// SOCK, where they write CONNECT P and a newline, as with Firecracker; ssh vsock-mux/SOCK does
    /// that. A guest reaches port P of the host, which is CID 2, at the Unix socket SOCK_P. cid is
    /// the guest's context ID. none is no device. Double a comma in SOCK
    #[arg(
        long,
        value_name = "path=SOCK[,cid=N]|none",
        value_parser = OsStringValueParser::new().try_map(|text| Vsock::parse(&text).map(OrNone))
    )]
    pub vsock: Option<OrNone<Vsock>>,

    /// The shared directories.
    #[arg(
        long = "share",
        help = Share::help(),
        value_name = "DIR[,tag=NAME][,readonly][,KEY=VALUE]",
        value_parser = OsStringValueParser::new().try_map(|text| Share::parse(&text))
    )]
    pub shares: Vec<Share>,

    /// Devices that other processes serve.
    #[arg(
        long,
        help = Remote::help(),
        value_name = "socket=PATH,type=TYPE[,KEY=VALUE]",
        value_parser = OsStringValueParser::new().try_map(|text| Remote::parse(&text))
    )]
    pub vhost_user: Vec<Remote>,

    /// The memory balloon.
    #[arg(
        long,
        help = Balloon::help(),
        value_name = "size=SIZE,KEY=VALUE",
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = OsStringValueParser::new().try_map(|text| Balloon::parse(&text))
    )]
    pub balloon: Option<Balloon>,

    /// Read options from a TOML or JSON file (detected by its extension, else by its content),
    /// under the same names: kernel = "Image", disk = ["a.img", "b.img,readonly"], print-command =
    /// true. Options on the command line override the file. Relative paths are relative to the
    /// current directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write the process ID to FILE once everything is checked, and remove the file at exit
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Count exits, register accesses, requests, bytes and times. Write them at exit and on
    /// SIGUSR1: as JSON to FILE, which is replaced each time, or as a table to stderr (-)
    #[arg(long, value_name = "FILE|-", allow_hyphen_values = true)]
    pub stats: Option<PathBuf>,

    /// Record the activity of vCPUs and devices, with times and threads, to FILE in Chrome's trace
    /// format, for Perfetto (ui.perfetto.dev) and hartvisor trace show. Events that come faster
    /// than they can be written are dropped and counted
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Record the contents of the queues' rings to FILE, for hartvisor rings: at the kick with the
    /// most requests in flight, at exit, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub rings: Option<PathBuf>,

    /// Do not add the virtio random number generator
    #[arg(long)]
    pub no_rng: bool,

    /// Do not add the power key, the virtio input device through which SIGTERM and Ctrl-a q ask the
    /// guest to power off
    #[arg(long)]
    pub no_power_key: bool,

    /// Time limit in seconds for the guest to power off after SIGTERM or Ctrl-a q. When it expires,
    /// or at a second SIGTERM, the run ends as if the power was cut. With 0, or if the guest has no
    /// driver for the power key, the first SIGTERM ends the run
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = config::shutdown_timeout(),
        value_parser = parse_seconds,
        allow_negative_numbers = true
    )]
    pub shutdown_timeout: u32,

    /// Back end of the virtio console (hvc0): stdio, a new pseudo-terminal (its path is printed), a
    /// file (truncated), a Unix socket (one client at a time; output without a client is dropped),
    /// or null
    #[arg(
        long,
        value_name = "stdio|pty|file:PATH|socket:PATH|null",
        default_value = "stdio",
        value_parser = OsStringValueParser::new().try_map(|text| Target::parse(&text))
    )]
    pub console: Target,

    /// Back end of the serial port (ttyS0) and the SBI console, with the same values. If both are
    /// stdio, the keyboard goes to the serial port while the guest has it open. Under QEMU it goes
    /// to the console that --cmdline names last (console=), else to the one that the guest wrote to
    /// last; input from a file or a pipe then goes to the virtio console
    #[arg(
        long,
        value_name = "stdio|pty|file:PATH|socket:PATH|null",
        default_value = "stdio",
        value_parser = OsStringValueParser::new().try_map(|text| Target::parse(&text))
    )]
    pub serial: Target,

    /// Add a port to the virtio console, for a program in the guest (in Linux with udev:
    /// /dev/virtio-ports/NAME, else /dev/vport0p1, …) to talk to a program on the host. Targets are
    /// as for --console. Ports are lossless: a writer blocks until the reader catches up. Up to 30
    /// times. Double a comma in a value
    #[arg(
        long = "port",
        value_name = "name=NAME,target=pty|file:PATH|socket:PATH|null",
        value_parser = OsStringValueParser::new().try_map(|text| Port::parse(&text))
    )]
    pub ports: Vec<Port>,

    /// Exit when the guest reboots, with this exit status (default 0), instead of restarting it. A
    /// Linux guest with panic=-1 in --cmdline reboots when it panics
    #[arg(
        long,
        value_name = "STATUS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0"
    )]
    pub no_reboot: Option<u8>,

    /// The accelerator; auto is KVM if it can run RISC-V guests, else QEMU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,

    /// Which program implements the disks and the random number generator under QEMU
    #[arg(long, value_enum, default_value_t = Devices::Ours)]
    pub devices: Devices,

    /// Print the QEMU command for this guest, for a shell, instead of running it
    #[arg(long)]
    pub print_command: bool,
}

/// The value of an option, or `none`, to override a configuration file.
#[derive(Debug, Clone)]
pub struct OrNone<T>(Option<T>);

impl From<Run> for config::Run {
    fn from(run: Run) -> Self {
        config::Run {
            machine: config::Machine {
                kernel: run.kernel,
                firmware: run.firmware,
                initrd: run.initrd,
                cmdline: run.cmdline,
                dtb: run.dtb,
                cpus: run.cpus,
                memory: run.memory,
                irqchip: run.irqchip,
                isa: run.isa,
                sbi: run.sbi,
                disks: run.disks,
                cloud_init: run.cloud_init,
                nets: run.nets.into_iter().filter_map(|OrNone(net)| net).collect(),
                vsock: run.vsock.and_then(|OrNone(vsock)| vsock),
                vhost_user: run.vhost_user,
                shares: run.shares,
                balloon: run.balloon,
                rng: !run.no_rng,
                power_key: !run.no_power_key,
                shutdown_timeout: run.shutdown_timeout,
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
            observe: config::Observe { stats: run.stats, trace: run.trace, rings: run.rings },
        }
    }
}

/// Parses a number of vCPUs. The board's limit is not checked here.
fn parse_cpus(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 1 to {MAX_CPUS}"))
}

fn parse_seconds(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number of seconds, from 0 to {}", u32::MAX))
}

/// The result of parsing the command line.
#[derive(Debug)]
pub enum Parsed {
    /// A command to run.
    Command(Command),
    /// Help or version was requested: print it and exit with success.
    Text(clap::Error),
}

/// Parses the arguments, starting with the program's name. Errors are one line, without clap's
/// usage paragraphs.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
    let (arguments, config) = file::merge(arguments.into_iter().collect())?;
    if let Some(run) = run_alone(&arguments) {
        return Ok(Parsed::Command(Command::Run(Box::new(run))));
    }
    let usage = |text: String| match &config {
        None => Error::Usage(text),
        Some(path) => FileError::content("config", path, text),
    };
    let help = match arguments.get(1).and_then(|command| command.to_str()) {
        Some("run") => "hartvisor run --help",
        Some("vhost-user") => "hartvisor vhost-user --help",
        Some("trace") => "hartvisor trace --help",
        Some("rings") => "hartvisor rings --help",
        Some("check") => "hartvisor check --help",
        _ => "hartvisor --help",
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
            _ => {
                let error = one_line(&error.to_string(), help);
                Err(usage(match single_dash(&arguments) {
                    Some(option) => format!("{error}; did you mean -{option}?"),
                    None => error,
                }))
            }
        },
    }
}

/// Parses a valid `hartvisor run` without the definitions of the other commands, which take a fifth
/// of the parsing time. Invalid arguments and requests for help are left to the complete
/// definition.
fn run_alone(arguments: &[OsString]) -> Option<Run> {
    let options = arguments.get(1..)?;
    if options.first()? != "run" {
        return None;
    }
    let run = Run::augment_args(clap::Command::new("run")).disable_help_flag(true);
    let mut matches = run.try_get_matches_from(options).ok()?;
    Run::from_arg_matches_mut(&mut matches).ok()
}

/// Returns the first argument that is an option of `hartvisor run` but for a second dash, such as
/// QEMU's `-kernel`. There are no short options: `-kernel` would be `-k ernel`.
fn single_dash(arguments: &[OsString]) -> Option<&str> {
    let run = Run::augment_args(clap::Command::new("run"));
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    arguments.find(|argument| {
        let name = argument.strip_prefix('-').unwrap_or_default();
        run.get_arguments()
            .any(|known| known.get_long() == Some(name))
    })
}

/// Returns clap's message on one line, without "error: " and the usage and help paragraphs.
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
