//! One start of a VMM, from exec to exit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, pipe};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bench::pattern;
use bench::plan::{Plan, Start};
use bench::protocol::{GO, Line, Test};
use bench::record::{Counts, Measure, Measured, Record, Times};
use bench::smaps::{Memory, beside_ram};
use nix::fcntl::{FcntlArg, fcntl};

use crate::net::{Listener, Passt};
use crate::output::Output;
use crate::perf::{Counters, Moments, now};

/// A part of the kernel's first line, on whichever console prints it first.
const FIRST_LINE: &[u8] = b"Linux version";

/// Size of the pipe of the console in bytes: more than any test prints. A full pipe is not measured
/// here (QEMU's console sometimes stops forever then).
const PIPE: i32 = 1 << 20;

/// Starts the VMM and takes its guest through its tests.
pub(crate) fn run(start: &Start, plan: &Plan) -> Result<Record> {
    // Before the counters, so that it is not counted.
    let _passt = plan.passt.as_deref().map(Passt::start).transpose()?;
    let tests = start.parsed()?;
    let listeners = tests.iter().map(|test| Listener::new(test.kind));
    let listeners = listeners.collect::<Result<Vec<_>>>()?;
    let tests = tests.into_iter().zip(listeners).collect();
    let mut machine = Running::start(start)?;
    let result = machine.tests(start.measure, tests, plan.ram);
    if result.is_err() {
        let _ = machine.child.kill();
        let _ = machine.child.wait();
    }
    result.with_context(|| {
        format!(
            "{}; the console's end:\n{}",
            start.command.join(" "),
            machine.output.tail()
        )
    })
}

struct Running {
    child: Child,
    started: u64,
    keyboard: Option<ChildStdin>,
    output: Output,
    /// How many bytes were examined.
    looked: usize,
    counters: Option<Counters>,
    entry: Option<Moments>,
}

impl Running {
    fn start(start: &Start) -> Result<Running> {
        let (program, arguments) = start.command.split_first().context("no command")?;
        let (console, out) = pipe()?;
        fcntl(&out, FcntlArg::F_SETPIPE_SZ(PIPE))?;
        let counters = match start.measure {
            Measure::Time => None,
            Measure::Count => Some(Counters::for_next_program()?),
        };
        let entry = Moments::next_entry()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out);
        let started = now()?;
        let mut child = command
            .spawn()
            .with_context(|| format!("start {program}"))?;
        Ok(Running {
            keyboard: child.stdin.take(),
            child,
            started,
            output: Output::new(console),
            looked: 0,
            counters,
            entry: Some(entry),
        })
    }

    fn tests(
        &mut self,
        measure: Measure,
        planned: Vec<(Test, Option<Listener>)>,
        ram: u64,
    ) -> Result<Record> {
        self.wait_for(FIRST_LINE)?;
        let output = now()? - self.started;
        let entry = self.entry.take().context("once")?.last()?;
        ensure!(self.line()? == Line::Init, "the guest's init did not begin");
        let init = now()? - self.started;
        let boot = self.counts()?;
        let mut tests = BTreeMap::new();
        for (test, listener) in planned {
            let name = test.kind.name();
            ensure!(
                self.line()? == Line::Ready(name.into()),
                "{name} was not prepared"
            );
            // Allocated before the measurement starts: this program shares the only CPU with the
            // guest.
            let prints = test.kind.prints();
            let text = prints.map(|length| pattern::lines(test.operations * length / 64, 64));
            let transfer = listener.map(|listener| listener.accept(test));
            let mut transfer = transfer.transpose().context(name)?;
            let before = self.counts()?;
            self.go()?;
            if let Some(transfer) = &mut transfer {
                transfer.run().context(name)?;
            }
            if let Some(text) = text {
                self.expect(&text).context(name)?;
            }
            let outcome = match self.line()? {
                Line::Done(outcome) if outcome.name == name => outcome,
                other => bail!("{name} ended with '{other}'"),
            };
            let counts = self.counts()?.since(before);
            let measured = Measured {
                operations: outcome.operations,
                nanoseconds: outcome.nanoseconds,
                interrupts: outcome.interrupts,
                frames: outcome.frames,
                counts,
            };
            let intact = transfer.is_none_or(|transfer| transfer.is_intact());
            ensure!(intact, "{name}: the data was changed on its way");
            tests.insert(outcome.name, measured);
        }
        ensure!(self.line()? == Line::Bye, "there is more than was planned");
        let memory = self.memory(ram)?;
        Ok(Record {
            measure,
            times: Times { run: entry - self.started, output, init, exit: self.end()? },
            memory,
            boot,
            tests,
        })
    }

    /// Lets the guest power off. Returns the nanoseconds from its request until the VMM has exited.
    /// A guest powers off by an SBI call or a device, which is its last exit to the VMM.
    fn end(&mut self) -> Result<u64> {
        let exits = Moments::userspace_exits()?;
        self.go()?;
        while self.output.read()? > 0 {}
        let status = self.child.wait()?;
        let end = now()?;
        ensure!(status.success(), "the VMM ended with {status}");
        Ok(end - exits.last()?)
    }

    fn counts(&mut self) -> Result<Counts> {
        self.counters
            .as_mut()
            .map_or_else(|| Ok(Counts::default()), Counters::read)
    }

    fn memory(&self, ram: u64) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.child.id()))?;
        Ok(beside_ram(&text, ram))
    }

    fn go(&mut self) -> Result<()> {
        let keyboard = self.keyboard.as_mut().context("no keyboard")?;
        keyboard
            .write_all(GO.as_bytes())
            .context("the VMM takes no input")
    }

    /// Returns the next line of `load`.
    fn line(&mut self) -> Result<Line> {
        loop {
            let new = self.output.seen.get(self.looked..).unwrap_or_default();
            if let Some(length) = new.iter().position(|&byte| byte == b'\n') {
                let text =
                    String::from_utf8_lossy(new.get(..length).unwrap_or_default()).into_owned();
                self.looked += length + 1;
                match text.trim_end_matches('\r').parse() {
                    Ok(Line::Fail(text)) => bail!("the guest says: {text}"),
                    Ok(line) => return Ok(line),
                    // A line of the kernel's log.
                    Err(()) => {}
                }
            } else if self.output.read()? == 0 {
                bail!("the VMM closed its console");
            }
        }
    }

    /// Reads until `text` arrives.
    fn wait_for(&mut self, text: &[u8]) -> Result<()> {
        ensure!(self.output.wait_for(text)?, "the VMM closed its console");
        Ok(())
    }

    /// Reads exactly `text`.
    fn expect(&mut self, text: &[u8]) -> Result<()> {
        let end = self.looked + text.len();
        while self.output.seen.len() < end {
            ensure!(self.output.read()? > 0, "the VMM closed its console");
        }
        ensure!(
            self.output.seen.get(self.looked..end) == Some(text),
            "the console lost or changed something"
        );
        self.looked = end;
        Ok(())
    }
}
