//! Whoever watches a run: statistics, a trace, rings, and what is told to them by vCPUs and devices.
//!
//! Without a watcher nothing stands between: the vCPU loop is the one without, and no device is wrapped.

use std::sync::{Arc, Mutex, PoisonError};

use devices::irq::IrqLine;
use devices::rings::View;
use devices::virtio::VirtioDevice;
use devices::watch::{Event, Watch};
use devices::watched::{Watched, WatchedLine};

use crate::config;
use crate::error::Error;
use crate::hart::Hart;
use crate::machine::{End, Machine};
use crate::rings::Recorder;
use crate::stats::Stats;
use crate::stats::counters::VcpuCounters;
use crate::stats::report::Kvm;
use crate::trace::{ExitNote, Trace, Tracer};
use crate::vcpu::{Exit, Vcpu};

/// The watchers of one run.
pub struct Observer {
    stats: Option<Stats>,
    trace: Option<Mutex<Trace>>,
    tracer: Option<Arc<Tracer>>,
    rings: Option<Arc<Recorder>>,
    disks: usize,
}

impl Observer {
    /// Those that are `wanted`, of a run of `machine`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(wanted: &config::Observe, machine: &Machine) -> Result<Observer, Error> {
        let stats = wanted.stats.as_deref();
        let stats = stats.map(|target| Stats::new(target, machine.config.memory.size));
        let rings = wanted.rings.as_deref().map(Recorder::new);
        let trace = wanted.trace.as_deref().map(Trace::start).transpose()?;
        Ok(Observer {
            stats: stats.transpose()?,
            tracer: trace.as_ref().map(|trace| Arc::clone(trace.tracer())),
            trace: trace.map(Mutex::new),
            rings: rings.transpose()?.map(Arc::new),
            disks: machine.disks.len(),
        })
    }

    /// Nobody.
    pub fn none() -> Observer {
        Observer {
            stats: None,
            trace: None,
            tracer: None,
            rings: None,
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
        let kind = format!("{:?}", device.id()).to_lowercase();
        let name = match slot {
            0 => "console".to_owned(),
            _ if slot <= self.disks => format!("disk{}", slot - 1),
            _ => "rng".to_owned(),
        };
        let counters = self.stats.as_ref().map(|stats| -> Arc<dyn Watch> {
            stats.device(&name, kind, device.queues().len(), wire)
        });
        let traced = self.tracer.as_ref().map(|tracer| -> Arc<dyn Watch> {
            Arc::new(Traced {
                device: tracer.device(&name),
                tracer: Arc::clone(tracer),
            })
        });
        let drawn = self.rings.as_ref().map(|rings| -> Arc<dyn Watch> {
            Arc::new(Drawn {
                rings: Arc::clone(rings),
                name: name.clone(),
            })
        });
        let mut watches: Vec<_> = [counters, traced, drawn].into_iter().flatten().collect();
        match watches.len() {
            // What counts is called at each step of a request: nothing in between.
            0 | 1 => watches.pop(),
            _ => Some(Arc::new(Several(watches))),
        }
    }

    /// What watches vCPU `id`, if anybody does.
    pub fn vcpu(&self, id: usize) -> Option<VcpuProbe> {
        let counters = self.stats.as_ref().map(|stats| stats.vcpu(id));
        let tracer = self.tracer.clone();
        (counters.is_some() || tracer.is_some()).then_some(VcpuProbe {
            counters,
            tracer,
            exit: None,
        })
    }

    /// The guest begins to live in a VM of KVM's, whose `time` CSR has so many ticks a second.
    pub fn born(&self, timebase: u32) {
        self.with(|stats| stats.born(timebase));
    }

    /// Its VM has ended; `kvm` gives what KVM has counted.
    pub fn died(&self, kvm: impl FnOnce() -> Kvm) {
        if let Some(rings) = &self.rings {
            rings.died();
        }
        self.with(|stats| stats.died(&kvm()));
    }

    /// A user wants to know how it stands (SIGUSR1).
    pub fn tell(&self, kvm: impl FnOnce() -> Option<Kvm>) {
        if let Some(rings) = &self.rings {
            rings.write();
        }
        self.with(|stats| stats.write(kvm().as_ref(), None));
    }

    /// The run has ended like this.
    pub fn finish(&self, end: &Result<End, Error>) {
        if let Some(trace) = &self.trace {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.finish();
        }
        if let Some(rings) = &self.rings {
            rings.write();
        }
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

/// A trace, of one device.
struct Traced {
    tracer: Arc<Tracer>,
    /// The device's number in it.
    device: u8,
}

impl Watch for Traced {
    fn see(&self, event: Event) {
        self.tracer.event(self.device, event);
    }

    fn wants_descriptors(&self) -> bool {
        true
    }
}

/// What remembers rings, of one device.
struct Drawn {
    rings: Arc<Recorder>,
    /// The device's name.
    name: String,
}

impl Watch for Drawn {
    fn see(&self, _event: Event) {}

    fn wants_rings(&self) -> bool {
        true
    }

    fn rings(&self, queue: u16, view: View) {
        self.rings.kicked(&self.name, queue, view);
    }
}

/// More than one.
struct Several(Vec<Arc<dyn Watch>>);

impl Watch for Several {
    fn see(&self, event: Event) {
        self.0.iter().for_each(|watch| watch.see(event));
    }

    fn wants_descriptors(&self) -> bool {
        self.0.iter().any(|watch| watch.wants_descriptors())
    }

    fn wants_rings(&self) -> bool {
        self.0.iter().any(|watch| watch.wants_rings())
    }

    fn rings(&self, queue: u16, view: View) {
        // There is one.
        if let Some(watch) = self.0.iter().find(|watch| watch.wants_rings()) {
            watch.rings(queue, view);
        }
    }
}

/// What watches one vCPU.
pub struct VcpuProbe {
    counters: Option<Arc<VcpuCounters>>,
    tracer: Option<Arc<Tracer>>,
    /// The exit that is being answered, and when it came.
    exit: Option<(ExitNote, u64)>,
}

impl VcpuProbe {
    /// The vCPU has come back.
    fn left(&mut self, exit: &Exit<'_>) {
        if let Some(counters) = &self.counters {
            counters.count(exit);
        }
        if let Some(tracer) = &self.tracer {
            self.exit = Some((ExitNote::of(exit), tracer.now()));
        }
    }

    /// The vCPU goes on, or is done.
    fn goes_on(&mut self) {
        if let Some(tracer) = &self.tracer
            && let Some((note, began)) = self.exit.take()
        {
            tracer.exit(note, began);
        }
    }
}

impl Drop for VcpuProbe {
    fn drop(&mut self) {
        self.goes_on();
    }
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
        self.probe.goes_on();
        let exit = self.vcpu.run()?;
        self.probe.left(&exit);
        Ok(exit)
    }

    fn hart(&mut self) -> &mut dyn Hart {
        self.vcpu.hart()
    }
}
