//! Whoever watches a run: statistics, and what is told to them by vCPUs and devices.
//!
//! Without a watcher nothing stands between: the vCPU loop is the one without, and no device is wrapped.

use std::sync::Arc;

use devices::irq::IrqLine;
use devices::virtio::VirtioDevice;
use devices::watch::{Event, Watch, Watched, WatchedLine};

use crate::cli;
use crate::error::Error;
use crate::machine::{End, Machine};
use crate::stats::Stats;
use crate::stats::counters::{DeviceCounters, VcpuCounters};
use crate::stats::report::Kvm;
use crate::vcpu::{Exit, Vcpu};

/// The watchers of one run.
pub struct Observer {
    stats: Option<Stats>,
    disks: usize,
}

impl Observer {
    /// Those that `options` ask for, of a run of `machine`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(options: &cli::Run, machine: &Machine) -> Result<Observer, Error> {
        let stats = options.stats.as_deref();
        let stats = stats.map(|target| Stats::new(target, machine.memory));
        Ok(Observer {
            stats: stats.transpose()?,
            disks: machine.disks.len(),
        })
    }

    /// Nobody.
    pub fn none() -> Observer {
        Observer {
            stats: None,
            disks: 0,
        }
    }

    /// The device of a slot and its wire, watched if anybody watches.
    pub fn device(
        &self,
        slot: usize,
        device: Box<dyn VirtioDevice>,
        line: Box<dyn IrqLine>,
    ) -> (Box<dyn VirtioDevice>, Box<dyn IrqLine>) {
        match self.watch(slot, &*device, true) {
            Some(watch) => (
                Box::new(Watched::new(device, Arc::clone(&watch))),
                Box::new(WatchedLine::new(line, watch)),
            ),
            None => (device, line),
        }
    }

    /// The same for a device whose wire is somebody else's.
    pub fn back_end(&self, slot: usize, device: Box<dyn VirtioDevice>) -> Box<dyn VirtioDevice> {
        match self.watch(slot, &*device, false) {
            Some(watch) => Box::new(Watched::new(device, watch)),
            None => device,
        }
    }

    fn watch(&self, slot: usize, device: &dyn VirtioDevice, wire: bool) -> Option<Arc<dyn Watch>> {
        let stats = self.stats.as_ref()?;
        let kind = format!("{:?}", device.id()).to_lowercase();
        let name = match slot {
            0 => "console".to_owned(),
            _ if slot <= self.disks => format!("disk{}", slot - 1),
            _ => "rng".to_owned(),
        };
        let counters = stats.device(&name, kind, device.queues().len(), wire);
        Some(Arc::new(Probe { counters }))
    }

    /// What watches vCPU `id`, if anybody does.
    pub fn vcpu(&self, id: usize) -> Option<VcpuProbe> {
        let counters = self.stats.as_ref()?.vcpu(id);
        Some(VcpuProbe { counters })
    }

    /// The guest begins to live in a VM of KVM's.
    pub fn born(&self) {
        self.with(Stats::born);
    }

    /// Its VM has ended; `kvm` gives what KVM has counted.
    pub fn died(&self, kvm: impl FnOnce() -> Kvm) {
        self.with(|stats| stats.died(&kvm()));
    }

    /// A user wants to know how it stands (SIGUSR1).
    pub fn tell(&self, kvm: impl FnOnce() -> Option<Kvm>) {
        self.with(|stats| stats.write(kvm().as_ref(), None));
    }

    /// The run has ended like this.
    pub fn finish(&self, end: &Result<End, Error>) {
        self.with(|stats| stats.write(None, Some(end)));
    }

    /// Whether KVM's own counters are of interest.
    pub fn wants_kvm(&self) -> bool {
        self.stats.is_some()
    }

    fn with(&self, tell: impl FnOnce(&Stats)) {
        if let Some(stats) = &self.stats {
            tell(stats);
        }
    }
}

/// What watches one device.
struct Probe {
    counters: Arc<DeviceCounters>,
}

impl Watch for Probe {
    fn see(&self, event: Event) {
        self.counters.count(event);
    }
}

/// What watches one vCPU.
pub struct VcpuProbe {
    counters: Arc<VcpuCounters>,
}

/// A vCPU that is watched: a vCPU as any other.
pub struct WatchedVcpu<'a, V> {
    vcpu: &'a mut V,
    probe: VcpuProbe,
}

impl<'a, V: Vcpu> WatchedVcpu<'a, V> {
    /// `vcpu`, with `probe` told why it comes back.
    pub fn new(vcpu: &'a mut V, probe: VcpuProbe) -> Self {
        WatchedVcpu { vcpu, probe }
    }
}

impl<V: Vcpu> Vcpu for WatchedVcpu<'_, V> {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        let exit = self.vcpu.run()?;
        self.probe.counters.count(&exit);
        Ok(exit)
    }
}
