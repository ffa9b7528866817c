//! The guest's init: loads the drivers of the disk and the console, runs the tests given on the
//! kernel's command line, and powers off.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::protocol::{GO, Kind, Line, Outcome, SEED, TESTS, Test};
use nix::libc::O_DIRECT;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

use disk::Disk;

mod clock;
mod disk;
mod ring;

const CONSOLE: &str = "/dev/hvc0";
const DISK: &str = "/dev/vda";

/// In dependency order.
const MODULES: [&str; 2] = ["/virtio_mmio.ko", "/virtio_blk.ko"];

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
    for module in MODULES {
        let file = File::open(module).context(module)?;
        nix::kmod::finit_module(file, c"", nix::kmod::ModuleInitFlags::empty()).context(module)?;
    }
    let mut console = Console::open()?;
    // From here on the kernel does not write to the console.
    fs::write("/proc/sys/kernel/printk", "1")?;
    console.say(&Line::Init)?;
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
    let name = test.kind.name().to_owned();
    let context = name.clone();
    if let Some(length) = test.kind.prints() {
        let text = bench::pattern::lines(test.operations * length / 64, 64);
        console.ready(&name)?;
        let start = clock::now()?;
        for part in text.chunks(length) {
            console.out.write_all(part)?;
        }
        tcdrain(&console.out)?;
        return console.done(name, test.operations, start);
    }
    let mut job = disk.prepare(test)?;
    console.ready(&name)?;
    let start = clock::now()?;
    if test.kind != Kind::Null {
        job.run(disk)?;
    }
    console.done(name, test.operations, start)?;
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

    fn ready(&mut self, name: &str) -> Result<()> {
        self.say(&Line::Ready(name.to_owned()))?;
        self.wait()
    }

    fn done(&mut self, name: String, operations: usize, start: u64) -> Result<()> {
        let nanoseconds = clock::now()? - start;
        self.say(&Line::Done(Outcome {
            name,
            operations: operations as u64,
            nanoseconds,
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
