//! The recordings of one run, each optional, and the observers that devices and vCPUs report to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use devices::observe::rings::View;
use devices::observe::{DeviceObserver, Event, Figures};
use devices::output::Lost;

use crate::error::Error;
use crate::exit::{Exit, Names};
use crate::rings::Recorder;
use crate::stats::Stats;
use crate::stats::counters::VcpuCounters;
use crate::stats::report::Kvm;
use crate::trace::{Trace, Tracer};

/// What to record, and where.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// The file for counters, or `-` for a table on stderr.
    pub stats: Option<&'a Path>,
    /// The file for events.
    pub trace: Option<&'a Path>,
    /// The file for the contents of queues.
    pub rings: Option<&'a Path>,
    /// Bytes of the guest's RAM.
    pub ram: u64,
    /// The names of targets of exits.
    pub names: Names,
}

/// The recordings of one run.
pub struct Observers {
    stats: Option<Stats>,
    trace: Option<Mutex<Trace>>,
    tracer: Option<Arc<Tracer>>,
    rings: Option<Arc<Recorder>>,
}

impl Observers {
    /// Starts the recordings in `options`.
    ///
    /// # Errors
    /// A file cannot be written, or the host has no thread left.
    pub fn start(options: Options<'_>) -> Result<Observers, Error> {
        let names = Arc::new(options.names);
        let stats = options
            .stats
            .map(|target| Stats::new(target, options.ram, Arc::clone(&names)));
        let rings = options.rings.map(Recorder::new);
        let stats = stats.transpose()?;
        let trace = options
            .trace
            .map(|path| Trace::start(path, names))
            .transpose()?;
        Ok(Observers {
            stats,
            tracer: trace.as_ref().map(|trace| Arc::clone(trace.tracer())),
            trace: trace.map(Mutex::new),
            rings: rings.transpose()?.map(Arc::new),
        })
    }

    /// The observer of a device of this name and kind, if anything about it is recorded. Its
    /// counters and lanes continue after a reboot. `interrupts`: whether its interrupts are
    /// reported.
    pub fn device(
        &self,
        name: &str,
        kind: &str,
        queues: usize,
        interrupts: bool,
    ) -> Option<Arc<dyn DeviceObserver>> {
        let counters = self.stats.as_ref().map(|stats| -> Arc<dyn DeviceObserver> {
            stats.device(name, kind.to_owned(), queues, interrupts)
        });
        let traced = self
            .tracer
            .as_ref()
            .map(|tracer| -> Arc<dyn DeviceObserver> {
                Arc::new(Traced { device: tracer.device(name), tracer: Arc::clone(tracer) })
            });
        let recorded = self.rings.as_ref().map(|rings| -> Arc<dyn DeviceObserver> {
            Arc::new(Recorded { rings: Arc::clone(rings), name: name.to_owned() })
        });
        let mut all: Vec<_> = [counters, traced, recorded].into_iter().flatten().collect();
        match all.len() {
            // A single observer is called directly, as it is called at each step of a request.
            0 | 1 => all.pop(),
            _ => Some(Arc::new(Several(all))),
        }
    }

    /// The recorder of vCPU `id`, if anything about vCPUs is recorded.
    pub fn vcpu(&self, id: usize) -> Option<VcpuRecorder> {
        let counters = self.stats.as_ref().map(|stats| stats.vcpu(id));
        let tracer = self.tracer.clone();
        (counters.is_some() || tracer.is_some()).then_some(VcpuRecorder {
            counters,
            tracer,
            exit: None,
        })
    }

    /// A VM has started on KVM. Its `time` CSR counts `timebase` ticks per second.
    pub fn vm_started(&self, timebase: u32) {
        if let Some(stats) = &self.stats {
            stats.vm_started(timebase);
        }
    }

    /// `lost` counts the output that each console loses.
    pub fn outputs(&self, lost: Vec<Arc<Lost>>) {
        if let Some(stats) = &self.stats {
            stats.outputs(lost);
        }
    }

    /// The VM has stopped, and its memory is still mapped. `kvm` are KVM's counts.
    pub fn vm_stopped(&self, kvm: &Kvm) {
        if let Some(rings) = &self.rings {
            rings.vm_stopped();
        }
        if let Some(stats) = &self.stats {
            stats.vm_stopped(kvm);
        }
    }

    /// Writes a report of the current run. `kvm` are KVM's counts of the current VM.
    pub fn report(&self, kvm: Option<&Kvm>) {
        if let Some(rings) = &self.rings {
            rings.write();
        }
        if let Some(stats) = &self.stats {
            stats.write(kvm, None);
        }
    }

    /// Ends all recordings, after the last report of any thread. `end` says in a word or two how
    /// the run ended.
    pub fn finish(&self, end: &str) {
        if let Some(trace) = &self.trace {
            let mut trace = devices::lock(trace);
            trace.finish();
        }
        if let Some(rings) = &self.rings {
            rings.write();
        }
        if let Some(stats) = &self.stats {
            stats.write(None, Some(end.to_owned()));
        }
    }

    /// Whether KVM's own counters are recorded.
    pub fn wants_kvm(&self) -> bool {
        self.stats.is_some()
    }
}

/// Traces one device.
struct Traced {
    tracer: Arc<Tracer>,
    /// The device's number in the trace.
    device: u8,
}

impl DeviceObserver for Traced {
    fn see(&self, event: Event) {
        self.tracer.event(self.device, event);
    }

    fn wants_descriptors(&self) -> bool {
        true
    }
}

/// Records the rings of one device.
struct Recorded {
    rings: Arc<Recorder>,
    /// The device's name.
    name: String,
}

impl DeviceObserver for Recorded {
    fn see(&self, _event: Event) {}

    fn wants_rings(&self) -> bool {
        true
    }

    fn rings(&self, queue: u16, view: View) {
        self.rings.record(&self.name, queue, view);
    }
}

/// Several observers of one device.
struct Several(Vec<Arc<dyn DeviceObserver>>);

impl DeviceObserver for Several {
    fn see(&self, event: Event) {
        self.0.iter().for_each(|observer| observer.see(event));
    }

    fn wants_descriptors(&self) -> bool {
        self.0.iter().any(|observer| observer.wants_descriptors())
    }

    fn wants_rings(&self) -> bool {
        self.0.iter().any(|observer| observer.wants_rings())
    }

    fn figures(&self, figures: Arc<dyn Figures>) {
        let each = self.0.iter();
        each.for_each(|observer| observer.figures(Arc::clone(&figures)));
    }

    fn rings(&self, queue: u16, view: View) {
        // At most one observer wants rings.
        if let Some(observer) = self.0.iter().find(|observer| observer.wants_rings()) {
            observer.rings(queue, view);
        }
    }
}

/// Records one vCPU, in its thread.
pub struct VcpuRecorder {
    counters: Option<Arc<VcpuCounters>>,
    tracer: Option<Arc<Tracer>>,
    /// The exit that is being handled, and its time.
    exit: Option<(Exit, u64)>,
}

impl VcpuRecorder {
    /// The vCPU has left the guest.
    pub fn left(&mut self, exit: Exit) {
        if let Some(counters) = &self.counters {
            counters.count(exit);
        }
        if let Some(tracer) = &self.tracer {
            self.exit = Some((exit, tracer.now()));
        }
    }

    /// The vCPU is about to enter the guest again, or its thread ends.
    pub fn enters(&mut self) {
        if let Some(tracer) = &self.tracer
            && let Some((exit, began)) = self.exit.take()
        {
            tracer.exit(exit, began);
        }
    }
}

impl Drop for VcpuRecorder {
    fn drop(&mut self) {
        self.enters();
    }
}
