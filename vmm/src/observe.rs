//! The interface for observers: what devices and vCPUs report while a guest runs.
//!
//! ```text
//!   run ──▶ Observer ──▶ device()  wraps a device and its interrupt line
//!                        vcpu()    wraps a vCPU
//!                        notify()  VM started, VM stopped, report requested, run ended
//! ```
//!
//! Without an observer nothing is wrapped, so the data path has no check for one. Statistics,
//! traces and ring recordings are in the crate `observe`, which depends on devices, but neither on
//! KVM nor on the board. `recorded` implements this trait with it (cargo feature `observe`).

use std::collections::BTreeMap;
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::observe::DeviceObserver;
use devices::observe::observed::{Observed, ObservedLine};
use devices::output::Lost;
use devices::virtio::VirtioDevice;

use crate::error::Error;
use crate::hart::Hart;
use crate::machine::End;
use crate::vcpu::{Exit, Vcpu};

#[cfg(feature = "observe")]
mod recorded;
#[cfg(not(feature = "observe"))]
#[path = "observe/none.rs"]
mod recorded;
#[cfg(feature = "observe")]
mod register_names;

pub use recorded::{draw_rings, show_trace, start};

/// An observer of a run.
pub trait Observer: Send + Sync {
    /// Returns the observer of the device `name`, if it is to be observed. `interrupts` says
    /// whether the device's interrupts are reported.
    fn device(
        &self,
        name: &str,
        device: &dyn VirtioDevice,
        interrupts: bool,
    ) -> Option<Arc<dyn DeviceObserver>>;

    /// Returns the observer of vCPU `id`, if it is to be observed.
    fn vcpu(&self, id: usize) -> Option<Box<dyn VcpuObserver>>;

    /// Whether to read KVM's own counters, for [`Moment::VmStopped`] and [`Moment::Report`].
    fn wants_kvm(&self) -> bool;

    /// Reports an event of the whole run.
    fn notify(&self, moment: Moment<'_>);
}

/// An event of the whole run.
#[derive(Debug)]
pub enum Moment<'a> {
    /// The consoles are open. These are the counts of their lost output.
    Outputs(Vec<Arc<Lost>>),
    /// KVM starts a VM for the guest.
    VmStarted {
        /// Ticks per second of its `time` CSR.
        timebase: u32,
    },
    /// That VM has stopped. Its memory is still mapped.
    VmStopped(KvmCounters),
    /// A report is requested (SIGUSR1).
    Report(Option<KvmCounters>),
    /// The run has ended.
    Ended(&'a Result<End, Error>),
}

/// KVM's own counters, under the kernel's names (KVM_GET_STATS_FD).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvmCounters {
    /// The VM's counters.
    pub vm: BTreeMap<String, u64>,
    /// The counters of each vCPU.
    pub vcpus: Vec<BTreeMap<String, u64>>,
}

/// An observer of a vCPU, called in the vCPU's thread.
pub trait VcpuObserver: Send {
    /// Called after an exit.
    fn left(&mut self, exit: &Exit<'_>);
    /// Called before the vCPU enters the guest again.
    fn enters(&mut self);
}

/// The absence of an observer.
pub struct Unobserved;

impl Observer for Unobserved {
    fn device(&self, _: &str, _: &dyn VirtioDevice, _: bool) -> Option<Arc<dyn DeviceObserver>> {
        None
    }

    fn vcpu(&self, _: usize) -> Option<Box<dyn VcpuObserver>> {
        None
    }

    fn wants_kvm(&self) -> bool {
        false
    }

    fn notify(&self, _: Moment<'_>) {}
}

/// Wraps a device and its interrupt line, if `observer` wants to observe it.
pub fn device(
    observer: &dyn Observer,
    name: &str,
    device: Box<dyn VirtioDevice>,
    line: Box<dyn IrqLine>,
) -> (Box<dyn VirtioDevice>, Box<dyn IrqLine>) {
    match observer.device(name, &*device, true) {
        Some(observer) => (
            Box::new(Observed::new(device, Arc::clone(&observer))),
            Box::new(ObservedLine::new(line, observer)),
        ),
        None => (device, line),
    }
}

/// As [`device()`], for a device whose interrupt line is in another process.
pub fn back_end(
    observer: &dyn Observer,
    name: &str,
    device: Box<dyn VirtioDevice>,
) -> Box<dyn VirtioDevice> {
    match observer.device(name, &*device, false) {
        Some(observer) => Box::new(Observed::new(device, observer)),
        None => device,
    }
}

/// A vCPU that reports its exits.
pub struct ObservedVcpu<'a, V> {
    vcpu: &'a mut V,
    observer: Box<dyn VcpuObserver>,
}

impl<'a, V: Vcpu> ObservedVcpu<'a, V> {
    /// Reports the exits of `vcpu` to `observer`.
    pub fn new(vcpu: &'a mut V, observer: Box<dyn VcpuObserver>) -> Self {
        ObservedVcpu { vcpu, observer }
    }
}

impl<V: Vcpu> Vcpu for ObservedVcpu<'_, V> {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        self.observer.enters();
        let exit = self.vcpu.run()?;
        self.observer.left(&exit);
        Ok(exit)
    }

    fn hart(&mut self) -> &mut dyn Hart {
        self.vcpu.hart()
    }

    fn complete_exit(&mut self) -> Result<(), Error> {
        self.observer.enters();
        self.vcpu.complete_exit()
    }

    fn forget_kick(&mut self) {
        self.vcpu.forget_kick();
    }

    fn time(&self) -> Result<u64, Error> {
        self.vcpu.time()
    }

    fn set_time(&mut self, ticks: u64) -> Result<(), Error> {
        self.vcpu.set_time(ticks)
    }
}
