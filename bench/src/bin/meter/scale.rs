//! A scene: many starts one after another, or many VMs at once.

use std::ffi::OsString;
use std::fs;
use std::io::{Write, pipe};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::record::{Counts, Measure};
use bench::scale::{IDLE, Sample, Scene, Waits};
use bench::smaps::{beside_ram, with_ram};

use crate::output::Output;
use crate::perf::{Counters, Moments, now};

/// Runs the scene and measures times and memory. If guests wait once more, also counts their
/// activity while they wait.
pub(crate) fn run(scene: &Scene) -> Result<Sample> {
    let started = now()?;
    let mut sample = Sample::default();
    for _ in 0..scene.rounds {
        sample = round(scene, Measure::Time)?;
    }
    sample.total = now()? - started;
    if scene.waits.is_some() {
        sample.idle = round(scene, Measure::Count)?.idle;
    }
    Ok(sample)
}

fn round(scene: &Scene, measure: Measure) -> Result<Sample> {
    let mut sample = Sample::default();
    let Some(waits) = &scene.waits else {
        let vms = start(scene)?;
        vms.into_iter().try_for_each(Vm::end)?;
        return Ok(sample);
    };
    let entry = Moments::next_entry()?;
    let started = now()?;
    let mut vms = start(scene)?;
    for vm in &mut vms {
        vm.wait_for(waits)?;
    }
    sample.ready = now()? - started;
    sample.run = entry.last()? - started;
    for vm in &vms {
        let text = vm.smaps()?;
        let memory = beside_ram(&text, scene.ram);
        sample.with_ram += with_ram(&text);
        sample.memory.pss += memory.pss;
        sample.memory.anonymous += memory.anonymous;
    }
    match measure {
        Measure::Time => sample.exit = end(vms, waits)?,
        Measure::Count => sample.idle = idle(vms, waits)?,
    }
    Ok(sample)
}

/// Counts what idle guests cause in their VMMs and KVM.
fn idle(vms: Vec<Vm>, waits: &Waits) -> Result<Counts> {
    // A guest is not idle immediately after its last line.
    thread::sleep(Duration::from_secs(1));
    let mut threads = Vec::new();
    for vm in &vms {
        threads.extend(vm.threads()?);
    }
    let mut counters = Counters::of_threads(&threads)?;
    thread::sleep(Duration::from_secs(IDLE));
    let counts = counters.read()?;
    end(vms, waits)?;
    let after = counters.read()?.since(counts);
    ensure!(
        after.syscalls > 0 && after.switches > 0,
        "nothing was counted, not even at the end"
    );
    Ok(counts)
}

/// Makes all guests power off. Returns the nanoseconds from the last power-off request to the last
/// exit.
fn end(mut vms: Vec<Vm>, waits: &Waits) -> Result<u64> {
    let exits = Moments::userspace_exits()?;
    for vm in &mut vms {
        vm.keyboard.write_all(waits.go.as_bytes())?;
    }
    vms.into_iter().try_for_each(Vm::end)?;
    Ok(now()? - exits.last()?)
}

fn start(scene: &Scene) -> Result<Vec<Vm>> {
    (0..scene.vms).map(|_| Vm::start(&scene.command)).collect()
}

/// A VM of a scene. Dropping it kills it.
struct Vm {
    child: Child,
    keyboard: ChildStdin,
    output: Output,
}

impl Drop for Vm {
    fn drop(&mut self) {
        // No effect on a VMM that has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vm {
    fn start(command: &[String]) -> Result<Vm> {
        let (program, arguments) = command.split_first().context("no command")?;
        let (console, out) = pipe()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let keyboard = child.stdin.take().context("a pipe was asked for")?;
        Ok(Vm { child, keyboard, output: Output::new(console) })
    }

    fn wait_for(&mut self, waits: &Waits) -> Result<()> {
        let came = self.output.wait_for(waits.ready.as_bytes());
        let came = came.with_context(|| self.output.tail())?;
        ensure!(came, "the guest did not wait: {}", self.output.tail());
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        while self.output.read().with_context(|| self.output.tail())? > 0 {}
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "the VMM ended with {status}: {}",
            self.output.tail()
        );
        Ok(())
    }

    fn smaps(&self) -> Result<String> {
        let file = format!("/proc/{}/smaps", self.child.id());
        fs::read_to_string(&file).context(file)
    }

    fn threads(&self) -> Result<Vec<i32>> {
        let folder = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let number = |name: OsString| name.to_str().and_then(|name| name.parse().ok());
        folder
            .map(|entry| number(entry?.file_name()).context("a thread has a number"))
            .collect()
    }
}
