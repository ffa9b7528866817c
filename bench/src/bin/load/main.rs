//! The guest's init: loads the drivers that are there, runs the tests given on the kernel's command
//! line, and powers off.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::protocol::{GO, Kind, Line, MODULES, Outcome, SEED, TESTS, Test};
use nix::libc::O_DIRECT;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

use disk::Disk;
use net::Seen;

mod clock;
mod disk;
mod net;
mod ring;

const CONSOLE: &str = "/dev/hvc0";
const DISK: &str = "/dev/vda";

/// Drivers in the order of [`MODULES`]. Those of the network are only there if it is tested.
fn modules() -> impl Iterator<Item = String> {
    let paths = MODULES.into_iter().map(|module| format!("/{module}.ko"));
    paths.filter(|path| Path::new(path).exists())
}

fn main() -> Result<()> {
    if let Err(error) = run() {
        // If this fails there is no way to report it.
        let _ = fs::write(CONSOLE, format!("\n{}\n", Line::Fail(format!("{error:#}"))));
    }
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(())
}

fn run() -> Result<()> {
    let none: Option<&str> = None;
    mount(
        Some("dev"),
        "/dev",
        Some("devtmpfs"),
        MsFlags::empty(),
        none,
    )
    .context("mount /dev")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mount /proc")?;
    for module in modules() {
        let flags = nix::kmod::ModuleInitFlags::empty();
        nix::kmod::finit_module(File::open(&module)?, c"", flags).context(module)?;
    }
    let mut console = Console::open()?;
    // From here on the kernel does not write to the console.
    fs::write("/proc/sys/kernel/printk", "1")?;
    console.say(&Line::Init)?;
    if Path::new(net::BUSYBOX).exists() {
        net::start()?;
    }
    settle()?;

    let seed = std::env::var(SEED).context(SEED)?.parse().context(SEED)?;
    let mut disk = Disk::open(Path::new(DISK), seed)?;
    for test in std::env::var(TESTS).context(TESTS)?.split(',') {
        let Ok(test) = test.parse() else {
            bail!("no such test: {test}");
        };
        run_test(test, &mut disk, &mut console)?;
    }
    console.say(&Line::Bye)?;
    console.wait()
}

/// Waits until the kernel has finished the work that it continues after init has started. Debian's
/// kernel tests its cryptography then, for some hundred milliseconds, and would share the CPU with
/// a test.
fn settle() -> Result<()> {
    // In the kernel's clock ticks of 10 ms. An idle guest has none in half a second, or one for the
    // timer itself.
    const QUIET: u64 = 1;
    loop {
        let before = busy()?;
        std::thread::sleep(Duration::from_millis(500));
        if busy()? - before <= QUIET {
            return Ok(());
        }
    }
}

/// Returns the ticks in which a CPU was not idle.
fn busy() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq (proc_stat(5)).
    let ticks = line.split_whitespace().skip(1).take(7);
    let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    let idle = ticks.iter().skip(3).take(2);
    Ok(ticks.iter().sum::<u64>() - idle.sum::<u64>())
}

fn run_test(test: Test, disk: &mut Disk, console: &mut Console) -> Result<()> {
    let context = test.kind.name();
    if let Some(length) = test.kind.prints() {
        let text = bench::pattern::lines(test.operations * length / 64, 64);
        let start = console.ready(test)?;
        for part in text.chunks(length) {
            console.out.write_all(part)?;
        }
        tcdrain(&console.out)?;
        return console.done(test, start);
    }
    if let Some(mut transfer) = net::prepare(test).context(context)? {
        let start = console.ready(test)?;
        transfer.run().context(context)?;
        console.done(test, start)?;
        ensure!(
            transfer.is_intact(),
            "{context}: the data was changed on its way"
        );
        return Ok(());
    }
    let mut job = disk.prepare(test)?;
    let start = console.ready(test)?;
    match test.kind {
        Kind::Null => {}
        Kind::Idle => std::thread::sleep(Duration::from_secs(test.operations as u64)),
        _ => job.run(disk)?,
    }
    console.done(test, start)?;
    job.verify(disk).context(context)
}

/// The virtio console in raw mode.
struct Console {
    out: File,
    lines: BufReader<File>,
}

impl Console {
    fn open() -> Result<Console> {
        let out = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY)
            .open(CONSOLE)
            .context(CONSOLE)?;
        let mut raw = tcgetattr(out.as_fd())?;
        cfmakeraw(&mut raw);
        tcsetattr(out.as_fd(), SetArg::TCSANOW, &raw)?;
        let lines = BufReader::new(out.try_clone()?);
        Ok(Console { out, lines })
    }

    fn say(&mut self, line: &Line) -> Result<()> {
        self.out
            .write_all(format!("{line}\n").as_bytes())
            .context("write to the console")
    }

    /// Waits for permission to start, and returns the time and counts of that.
    fn ready(&mut self, test: Test) -> Result<(u64, Seen)> {
        self.say(&Line::Ready(test.kind.name().to_owned()))?;
        self.wait()?;
        let seen = Seen::now()?;
        Ok((clock::now()?, seen))
    }

    fn done(&mut self, test: Test, (start, before): (u64, Seen)) -> Result<()> {
        let nanoseconds = clock::now()? - start;
        let seen = Seen::now()?;
        self.say(&Line::Done(Outcome {
            name: test.kind.name().to_owned(),
            operations: test.operations as u64,
            nanoseconds,
            interrupts: seen.interrupts - before.interrupts,
            frames: seen.frames - before.frames,
        }))
    }

    fn wait(&mut self) -> Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if line != GO {
            bail!(
                "'{}' was typed, not '{}'",
                line.escape_debug(),
                GO.trim_end()
            );
        }
        Ok(())
    }
}

/// Opens the disk with O_DIRECT.
fn open_direct(path: &Path) -> Result<File> {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(path);
    open.with_context(|| format!("open {}", path.display()))
}
