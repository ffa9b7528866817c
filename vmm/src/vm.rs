//! A virtual machine on KVM, from its memory to its end.
//!
//! ```text
//!   new ────▶ boot ────▶ run ───▶ Why::Asked: the caller decides, and runs on
//!   devices   kernel,     │ ├───▶ Why::Rebooted: drop, and a new Vm
//!             vCPUs       │ └───▶ Why::Ended: drop
//!                    pause, resume
//! ```

use std::io::Cursor;
use std::sync::Arc;

use devices::memory::Memory;
use devices::platform::bus::Bus;
use devices::platform::uart::Uart;
use kvm_ioctls::{Kvm, VmFd};
use linux_loader::loader::load_dtb;
use log::info;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::board::Devices;
use crate::consoles::Consoles;
use crate::control::{Control, Controls, Request};
use crate::error::Error;
use crate::fdt::{self, Board};
use crate::hart::fault::{Budget, Faults};
use crate::kvm::hardware::{self, Hardware};
use crate::kvm::irq::Irqchip;
use crate::kvm::stats::Counters;
use crate::kvm::threads::{Shared, VcpuThreads};
use crate::kvm::vcpu::KvmVcpu;
use crate::kvm::{self, cpu, ram};
use crate::machine::{End, Machine};
use crate::observe::{Moment, Observer};
use crate::vcpu::Gate;
use crate::{loader, platform, sbi};

/// Why [`Vm::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The guest ended.
    Ended(End),
    /// The guest asked for a reset. KVM cannot reset a VM, so that takes a new one.
    Rebooted,
    /// A request for the caller. The vCPUs keep running.
    Asked(Request),
}

/// What outlives a VM: it stays the same when the guest reboots.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The machine's configuration.
    pub machine: &'a Machine,
    /// Its consoles' back ends.
    pub consoles: &'a Consoles,
    /// The guest's remaining budget of emulated exceptions.
    pub budget: &'a Budget,
    /// The queue of requests.
    pub control: &'a Arc<Control>,
    /// Statistics, trace and recordings.
    pub observer: &'a dyn Observer,
}

/// A virtual machine, from one start of the guest to its end or reboot.
///
/// The fields are dropped in this order: threads first; memory last, since KVM follows each change
/// of a live VM's memory page by page.
pub struct Vm<'a> {
    threads: Option<VcpuThreads>,
    /// Empty once their threads run.
    vcpus: Vec<KvmVcpu>,
    bus: Bus,
    gate: Arc<Gate>,
    devices: Devices<'a>,
    serial: Arc<Uart>,
    counters: Option<Counters>,
    irqchip: Irqchip,
    timebase: u32,
    vm: Arc<VmFd>,
    context: Context<'a>,
    ram: Arc<GuestMemoryMmap>,
}

impl<'a> Vm<'a> {
    /// Creates the machine with its vCPUs, memory and devices. Nothing is loaded yet.
    ///
    /// # Errors
    /// This host's KVM cannot run it, or a system call failed.
    pub fn new(kvm: &Kvm, context: Context<'a>) -> Result<Vm<'a>, Error> {
        let Context { machine, consoles, observer, .. } = context;
        let Hardware { vm, vcpus, aia } =
            hardware::create(kvm, machine.config.cpus, machine.config.irqchip)?;
        cpu::configure(&vcpus, machine)?;
        let timebase = first(&vcpus)?.timebase()?;
        let ram = Arc::new(ram::map(&vm, &machine.config.memory)?);
        let mut bus = Bus::default();
        let irqchip = match aia {
            Some(aia) => {
                info!("interrupt controller: in-kernel AIA, {}", aia.mode());
                Irqchip::Aia(aia)
            }
            None => {
                info!("interrupt controller: PLIC in user space");
                Irqchip::plic(&mut bus, &vcpus)?
            }
        };
        let line = |irq| irqchip.source(&vm, irq);
        let memory = Memory::new(Arc::clone(&ram));
        let devices = Devices::plug(&mut bus, &memory, machine, consoles, observer, line)?;
        let gate = Arc::new(Gate::new(vcpus.len()));
        let (ended, wake) = (Arc::clone(&gate), Arc::clone(context.control));
        let end = move |end| {
            ended.end(Ok(end));
            wake.wake();
        };
        let serial = platform::plug(&mut bus, consoles, line, end)?;
        Ok(Vm {
            threads: None,
            timebase,
            vcpus,
            bus,
            gate,
            devices,
            serial,
            counters: None,
            irqchip,
            vm,
            context,
            ram,
        })
    }

    /// Loads the kernel and starts the vCPUs. Call it once.
    ///
    /// # Errors
    /// A file cannot be read, or a system call failed.
    pub fn boot(&mut self) -> Result<(), Error> {
        let Context { machine, observer, .. } = self.context;
        let placement = &machine.placement;
        loader::load(
            &machine.kernel,
            machine.initrd.as_ref(),
            placement,
            &self.ram,
        )?;
        kvm::show_memory(&self.vm, &self.ram, &self.devices)?;
        let tree = self.device_tree()?;
        load_dtb(
            &*self.ram,
            GuestAddress(placement.fdt),
            &mut Cursor::new(tree),
        )
        .map_err(|error| Error::Internal(format!("the device tree has no room: {error}")))?;
        first(&self.vcpus)?.boot_at(placement.entry, placement.fdt)?;
        let (input, output) = self.context.consoles.sbi()?;
        let shared = Shared {
            bus: std::mem::take(&mut self.bus),
            console: sbi::Console::new(Arc::clone(&self.ram), input, output),
            faults: Faults::new(Arc::clone(&self.ram), self.context.budget.clone()),
            gate: Arc::clone(&self.gate),
            control: Arc::clone(self.context.control),
        };
        let vcpus = std::mem::take(&mut self.vcpus);
        let timebase = self.timebase;
        observer.notify(Moment::VmStarted { timebase });
        let counted = observer.wants_kvm();
        self.counters = counted.then(|| Counters::open(&self.vm, &vcpus));
        self.threads = Some(VcpuThreads::start(vcpus, shared, observer)?);
        Ok(())
    }

    /// Waits until the guest ends or a request arrives. vCPUs that are not paused run during and
    /// between the calls.
    ///
    /// # Errors
    /// A vCPU cannot continue, or a system call failed.
    pub fn run(&mut self, controls: &mut Controls) -> Result<Why, Error> {
        loop {
            if let Some(end) = self.gate.take_end() {
                return end.map(|end| match end {
                    End::Reboot => Why::Rebooted,
                    end => Why::Ended(end),
                });
            }
            if let Some(request) = self.context.control.next() {
                return Ok(Why::Asked(request));
            }
            controls.wait()?;
        }
    }

    /// Stops the vCPUs, the guest's clock and then the devices. On return no guest code runs, no
    /// request is in flight, and the VM uses no CPU time. Returns whether the guest was running.
    pub fn pause(&mut self) -> bool {
        let ran = self.threads.as_ref().is_some_and(VcpuThreads::pause);
        self.devices.iter().for_each(|(_, device)| device.pause());
        ran
    }

    /// Resumes a paused guest. Its `time` CSR continues from where it stopped; its real-time clock
    /// shows the host's time.
    pub fn resume(&mut self) {
        self.devices.iter().for_each(|(_, device)| device.resume());
        if let Some(threads) = &self.threads {
            threads.resume();
        }
    }

    /// Asks the guest to power off, by its power key. A paused guest is resumed, since it could not
    /// do so. Returns false if it has no driver of the key.
    pub fn power_off(&mut self) -> bool {
        self.resume();
        self.devices.power_off()
    }

    /// Reads the sizes of the disk files and of the balloon again, and notifies the guest of each
    /// change.
    pub fn resize(&self) {
        self.devices.resize();
    }

    /// Writes the statistics so far, and logs the balloon's.
    pub fn report(&self) {
        let counters = self.counters.as_ref();
        let counted = counters.map(Counters::read);
        self.context.observer.notify(Moment::Report(counted));
        self.devices.report();
    }

    /// Returns the guest's device tree. Call it before [`Vm::boot`].
    ///
    /// # Errors
    /// The host has no random numbers, or the tree cannot be built.
    pub fn device_tree(&self) -> Result<Vec<u8>, Error> {
        let machine = self.context.machine;
        if let Some(dtb) = &machine.dtb {
            return Ok(dtb.tree.clone());
        }
        let irqchip = self.irqchip.describe();
        let describe = |vcpu| cpu::describe(vcpu, machine, irqchip);
        let harts: Vec<_> = self.vcpus.iter().map(describe).collect();
        fdt::build(&Board {
            cmdline: &machine.config.cmdline,
            memory: machine.config.memory.size,
            harts: &harts,
            timebase: self.timebase,
            initrd: machine.placement.initrd.clone(),
            virtio_slots: self.devices.len(),
            seed: fdt::seed()?,
            irqchip,
        })
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        let shared = self.threads.take().map(VcpuThreads::stop);
        self.devices.iter().for_each(|(_, device)| device.stop());
        self.serial.stop();
        let Some(shared) = shared else { return };
        let Context { consoles, observer, .. } = self.context;
        if self.serial.has_sent() || shared.console.has_sent() {
            consoles.note_output();
        }
        let counters = self.counters.as_ref();
        let counted = counters.map(Counters::read).unwrap_or_default();
        observer.notify(Moment::VmStopped(counted));
    }
}

/// Returns the boot hart's vCPU.
fn first(vcpus: &[KvmVcpu]) -> Result<&KvmVcpu, Error> {
    vcpus.first().ok_or(Error::Internal("no vCPU".to_owned()))
}

#[cfg(all(test, feature = "e2e"))]
#[path = "vm_test.rs"]
mod tests;
