//! The seam for observers: what devices and vCPUs report while a guest runs.
//!
//! ```text
//!   run ──▶ Observer ──▶ device()  wraps a device and its interrupt line
//!                        vcpu()    wraps a vCPU
//!                        notify()  a VM starts or stops, a report is wanted, the run ends
//! ```
//!
//! Without an observer nothing is wrapped: the data path is the one without, and has no test for it.
//! Statistics, traces and ring recordings live in the crate `observe`, which knows devices but neither
//! KVM nor the board; `recorded` ties it to this trait (cargo feature `observe`).

use std::collections::BTreeMap;
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::observe::DeviceObserver;
use devices::observe::observed::{Observed, ObservedLine};
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

/// Observes a run.
pub trait Observer: Send + Sync {
    /// The observer of the device of this name, which reports its `interrupts` or not; `None`:
    /// nobody observes it.
    fn device(
        &self,
        name: &str,
        device: &dyn VirtioDevice,
        interrupts: bool,
    ) -> Option<Arc<dyn DeviceObserver>>;

    /// The observer of vCPU `id`; `None`: nobody observes it.
    fn vcpu(&self, id: usize) -> Option<Box<dyn VcpuObserver>>;

    /// Whether to open KVM's own counters, for [`Moment::VmStopped`] and [`Moment::Report`].
    fn wants_kvm(&self) -> bool;

    /// Something happens to the run as a whole.
    fn notify(&self, moment: Moment<'_>);
}

/// What happens to a run as a whole.
#[derive(Debug)]
pub enum Moment<'a> {
    /// KVM starts a VM for the guest.
    VmStarted {
        /// Ticks per second of its `time` CSR.
        timebase: u32,
    },
    /// That VM has stopped; its memory is still mapped.
    VmStopped(KvmCounters),
    /// A user asks for a report (SIGUSR1).
    Report(Option<KvmCounters>),
    /// The run has ended.
    Ended(&'a Result<End, Error>),
}

/// KVM's own counters, by the kernel's names (KVM_GET_STATS_FD).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvmCounters {
    /// Of the VM.
    pub vm: BTreeMap<String, u64>,
    /// Of each vCPU.
    pub vcpus: Vec<BTreeMap<String, u64>>,
}

/// Observes one vCPU, in its thread.
pub trait VcpuObserver: Send {
    /// The vCPU has left the guest.
    fn left(&mut self, exit: &Exit<'_>);
    /// The vCPU is about to enter the guest again.
    fn enters(&mut self);
}

/// No observer.
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

/// The device of this name and its interrupt line, observed if `observer` wants that.
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

/// As [`device()`], for a device whose interrupt line is another program's.
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
    /// `vcpu`, whose exits `observer` sees.
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
