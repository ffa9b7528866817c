//! `hartvisor run --stats`: counters of a running guest, and their report.
//!
//! ```text
//!   vCPU threads ──▶ counters::VcpuCounters ──┐
//!   device threads ▶ counters::DeviceCounters ┼─▶ report::Report ──▶ JSON in a file, or a table
//!   KVM, /proc ───────────────────────────────┘      at SIGUSR1 and at the end
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use devices::output::Lost;
use log::warn;

use crate::error::Error;
use crate::exit::Names;
use crate::sink::Sink;

mod clock;
pub(crate) mod counters;
mod histogram;
mod memory;
pub mod report;
mod table;

use clock::Ticks;
use counters::{DeviceCounters, VcpuCounters};
use report::{Kvm, Memory, Report};

/// The counters of a run, and the target of their report.
pub(crate) struct Stats {
    target: Target,
    started: Instant,
    /// The clock's ticks at `started`.
    ticks: u64,
    /// Bytes of the guest's RAM.
    ram: u64,
    names: Arc<Names>,
    state: Mutex<State>,
}

/// Where the report goes.
enum Target {
    /// To stderr, as a table.
    Stderr(Sink),
    /// To a file, as JSON.
    File(PathBuf, Sink),
}

/// The sources of reports.
#[derive(Default)]
struct State {
    /// Whether KVM runs the guest.
    kvm: bool,
    /// Ticks per second of the `time` CSR, if KVM runs the guest.
    timebase: Option<u32>,
    vcpus: Vec<Arc<VcpuCounters>>,
    devices: Vec<Counted>,
    lives: u64,
    /// The counts of each console's output that is lost.
    lost: Vec<Arc<Lost>>,
    /// KVM's counts of the VMs that have stopped: each reboot makes a new VM.
    past: Kvm,
    /// The memory of the process when the last VM stopped and its RAM was still mapped.
    memory: Option<Memory>,
}

struct Counted {
    name: String,
    wire: bool,
    counters: Arc<DeviceCounters>,
}

impl Stats {
    /// Statistics for `target`: a file, which is created now, or "-" for stderr.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn new(target: &Path, ram: u64, names: Arc<Names>) -> Result<Stats, Error> {
        let write =
            |source| Error::Write { what: "the statistics to", path: target.into(), source };
        let target = match target.as_os_str().as_encoded_bytes() {
            b"-" => Target::Stderr(Sink::stderr().map_err(write)?),
            _ => Target::File(target.into(), Sink::create(target).map_err(write)?),
        };
        let started = Instant::now();
        Ok(Stats {
            target,
            started,
            ticks: clock::ticks(started),
            ram,
            names,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // While the guest runs, only reports take it.
        devices::lock(&self.state)
    }

    /// The counters of vCPU `id`, which continue after a reboot.
    pub(crate) fn vcpu(&self, id: usize) -> Arc<VcpuCounters> {
        let mut state = self.state();
        while state.vcpus.len() <= id {
            state.vcpus.push(Arc::new(VcpuCounters::new(&self.names)));
        }
        let counters = state.vcpus.get(id);
        counters.map_or_else(|| Arc::new(VcpuCounters::new(&self.names)), Arc::clone)
    }

    /// The counters of the device of this name, which continue after a reboot. `wire`: whether its
    /// interrupts are counted.
    pub(crate) fn device(
        &self,
        name: &str,
        kind: String,
        queues: usize,
        wire: bool,
    ) -> Arc<DeviceCounters> {
        let mut state = self.state();
        if let Some(known) = state.devices.iter().find(|known| known.name == name) {
            return Arc::clone(&known.counters);
        }
        let has_file = kind == "block";
        let counters = Arc::new(DeviceCounters::new(kind, queues, has_file));
        state.devices.push(Counted {
            name: name.to_owned(),
            wire,
            counters: Arc::clone(&counters),
        });
        counters
    }

    /// A VM has started on KVM. Its `time` CSR, which is the host's with an offset, counts
    /// `timebase` ticks per second.
    pub(crate) fn vm_started(&self, timebase: u32) {
        let mut state = self.state();
        state.kvm = true;
        state.timebase = Some(timebase);
        state.lives += 1;
    }

    /// The VM has stopped. `kvm` are KVM's counts.
    pub(crate) fn vm_stopped(&self, kvm: &Kvm) {
        let mut state = self.state();
        state.past.add(kvm);
        state.memory = memory::of_this_process(self.ram);
    }

    /// The counts of each console's output that is lost.
    pub(crate) fn outputs(&self, lost: Vec<Arc<Lost>>) {
        self.state().lost = lost;
    }

    /// Writes a report. `present`: KVM's counts of the current VM; `end`: how the run ended.
    pub(crate) fn write(&self, present: Option<&Kvm>, end: Option<String>) {
        let report = self.report(present, end);
        let (path, written) = match &self.target {
            Target::Stderr(sink) => (
                "stderr".as_ref(),
                sink.write(table::text(&report).as_bytes()),
            ),
            Target::File(path, sink) => (path.as_path(), sink.write_json(&report)),
        };
        if let Err(error) = written {
            warn!("cannot write the statistics to {}: {error}", path.display());
        }
    }

    /// The unit of the devices' clocks.
    fn ticks(&self, timebase: Option<u32>) -> Ticks {
        match timebase {
            _ if !cfg!(target_arch = "riscv64") => Ticks::NANOSECONDS,
            Some(frequency) => Ticks { frequency: frequency.into() },
            None => Ticks::measured(self.started, self.ticks),
        }
    }

    fn report(&self, present: Option<&Kvm>, end: Option<String>) -> Report {
        let state = self.state();
        let mut kvm = state.past.clone();
        if let Some(present) = present {
            kvm.add(present);
        }
        let exits = state.vcpus.iter().map(|vcpu| vcpu.exits()).collect();
        let ticks = self.ticks(state.timebase);
        Report {
            version: report::VERSION,
            accel: if state.kvm { "kvm" } else { "qemu" }.to_owned(),
            nanoseconds: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            reboots: state.lives.saturating_sub(1),
            vcpus: state.kvm.then_some(exits),
            registers: state.kvm.then(|| state.registers(&self.names)),
            sbi: state.kvm.then(|| state.sbi(&self.names)),
            devices: state
                .devices
                .iter()
                .map(|device| device.counters.report(&device.name, device.wire, ticks))
                .collect(),
            lost: state.lost(),
            kvm: state.kvm.then_some(kvm),
            memory: match &end {
                Some(_) if state.kvm => state.memory,
                _ => memory::of_this_process(self.ram),
            },
            end,
        }
    }
}

impl State {
    fn lost(&self) -> Vec<report::Lost> {
        let lost = self.lost.iter().filter(|lost| lost.bytes() > 0);
        lost.map(|lost| report::Lost { output: lost.name().to_owned(), bytes: lost.bytes() })
            .collect()
    }

    fn registers(&self, names: &Names) -> Vec<report::Register> {
        let devices: Vec<_> = self
            .devices
            .iter()
            .map(|device| device.name.clone())
            .collect();
        let mut sums = vec![[0; 2]; names.registers.len()];
        for vcpu in &self.vcpus {
            for (sum, [reads, writes]) in sums.iter_mut().zip(vcpu.registers()) {
                *sum = [sum[0] + reads, sum[1] + writes];
            }
        }
        let named = sums.into_iter().enumerate();
        let named = named.filter(|(_, both)| *both != [0, 0]);
        named
            .map(|(number, [reads, writes])| {
                let (device, register) = names.register(number, &devices);
                report::Register { device, register: register.to_owned(), reads, writes }
            })
            .collect()
    }

    fn sbi(&self, names: &Names) -> std::collections::BTreeMap<String, u64> {
        let mut sums = std::collections::BTreeMap::new();
        for vcpu in &self.vcpus {
            let counts = names.sbi.iter().zip(vcpu.sbi());
            for (name, count) in counts.filter(|(_, count)| *count > 0) {
                *sums.entry((*name).to_owned()).or_default() += count;
            }
        }
        sums
    }
}

#[cfg(test)]
#[path = "stats_test.rs"]
mod tests;
