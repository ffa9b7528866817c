//! Running a machine on Linux KVM for RISC-V.
//!
//! ```text
//!   main thread   builds the machine, then waits for its end or a signal
//!   vcpu0 …       one thread each: KVM_RUN, answer, again (crate::vcpu)
//!   console, …    one worker thread each live device (devices::worker)
//! ```

mod end;
mod ext;
mod irq;
mod ram;
mod report;
mod threads;
mod vcpu;

use std::io;
use std::sync::Arc;

use devices::bus::Bus;
use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::mmio::{Mmio, QUEUE_NOTIFY};
use devices::plic::Plic;
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use log::debug;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use self::end::Ending;
use self::irq::HartLine;
use self::vcpu::KvmVcpu;
use crate::error::Error;
use crate::fdt::{self, Board, Irqchip};
use crate::loader;
use crate::machine::{End, Machine};
use crate::terminal::Terminal;
use crate::{board, dtb, layout, sbi};

/// Whether a guest can run here.
///
/// # Errors
/// Why not.
pub fn usable() -> Result<(), Error> {
    open().map(drop)
}

/// What this host's KVM offers, a line for each fact.
pub fn report() -> Vec<(&'static str, String)> {
    let report = open().and_then(|kvm| report::report(&kvm));
    report.unwrap_or_else(|error| vec![("kvm", error.chain())])
}

/// Runs `machine` until it ends.
///
/// # Errors
/// This host's KVM cannot run it, or a system call failed.
pub fn run(machine: &Machine) -> Result<End, Error> {
    let kvm = open()?;
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    let ram = Arc::new(ram::map(&vm, machine.memory)?);
    let mut vcpus = create_vcpus(&kvm, &vm, machine.cpus)?;

    let ending = Arc::new(Ending::new()?);
    let leave = Arc::clone(&ending);
    let terminal = Terminal::start(move || leave.set(Ok(End::Left)))?;

    let mut bus = Bus::default();
    let plic = plug_plic(&mut bus, &vcpus)?;
    let devices = board::devices(machine, terminal.input()?, terminal.output()?)?;
    let memory = Memory::new(Arc::clone(&ram));
    let devices = board::plug(&mut bus, &memory, devices, |irq| plic.source(irq))?;
    attach_kicks(&vm, &devices);

    loader::load(machine, &machine.placement, &ram)?;
    let tree = device_tree(machine, &vcpus, devices.len())?;
    if let Some(path) = &machine.dump_dtb {
        return dtb::dump(path, &tree).map(|()| End::PowerOff);
    }
    prepare_boot(machine, &vcpus, &tree, &ram)?;
    let console = sbi::Console::new(ram, terminal.input()?, terminal.output()?);

    threads::run(&mut vcpus, &bus, &console, &ending)?;
    devices.iter().for_each(|device| device.stop());
    ending.take()
}

/// `/dev/kvm`, if it is there, ours to open, and speaks the one version of its interface that there is.
fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::KvmPermission {
            group: crate::check::kvm_group(),
        },
        _ => failed("open /dev/kvm")(error),
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        other => Err(Error::KvmLacks {
            what: format!("API version 12 (it has {other})"),
            why: "no other is stable",
        }),
    }
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, count: u32) -> Result<Vec<KvmVcpu>, Error> {
    let limit = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
    if count > limit {
        return Err(Error::Cpus {
            given: count,
            limit,
            why: "the limit of this host's KVM",
        });
    }
    (0..count).map(|id| KvmVcpu::new(vm, id)).collect()
}

/// The interrupt controller: in user space, so that every RISC-V KVM host will do.
fn plug_plic(bus: &mut Bus, vcpus: &[KvmVcpu]) -> Result<Arc<Plic>, Error> {
    let harts = vcpus.iter().map(|vcpu| {
        let line = HartLine::new(vcpu.interrupt_fd()?);
        Ok(Box::new(line) as Box<dyn IrqLine>)
    });
    let harts = harts
        .collect::<io::Result<_>>()
        .map_err(|source| Error::Host {
            what: "duplicate a vCPU's descriptor".to_owned(),
            source,
        })?;
    let plic = Arc::new(Plic::new(harts));
    bus.insert(layout::PLIC_BASE, layout::PLIC_SIZE, plic.clone())
        .map_err(|overlap| Error::Internal(overlap.to_string()))?;
    Ok(plic)
}

/// Lets KVM turn a store to QueueNotify into the queue's event, in the kernel. Without that the store comes to us as any
/// other, and has the same effect.
fn attach_kicks(vm: &VmFd, devices: &[Arc<Mmio>]) {
    if !vm.check_extension(Cap::Ioeventfd) {
        return debug!("no ioeventfd: every notification exits to user space");
    }
    for (slot, device) in devices.iter().enumerate() {
        let address = layout::virtio_address(slot) + QUEUE_NOTIFY;
        for (kick, queue) in device.kicks().iter().zip(0_u32..) {
            let address = IoEventAddress::Mmio(address);
            if let Err(error) = vm.register_ioevent(kick, &address, queue) {
                debug!("slot {slot} queue {queue}: no ioeventfd: {error}");
            }
        }
    }
}

/// The device tree that the guest gets.
fn device_tree(machine: &Machine, vcpus: &[KvmVcpu], slots: usize) -> Result<Vec<u8>, Error> {
    if let Some(dtb) = &machine.dtb {
        return Ok(dtb.tree.clone());
    }
    let boot = vcpus.first().ok_or(Error::Internal("no vCPU".to_owned()))?;
    let harts: Vec<_> = vcpus.iter().map(KvmVcpu::describe).collect();
    fdt::build(&Board {
        cmdline: &machine.cmdline,
        memory: machine.memory,
        harts: &harts,
        timebase: boot.timebase()?,
        initrd: machine.placement.initrd.clone(),
        virtio_slots: slots,
        rng_seed: seed()?,
        irqchip: Irqchip::Plic,
    })
}

/// The device tree to its place, and the boot hart's registers.
fn prepare_boot(
    machine: &Machine,
    vcpus: &[KvmVcpu],
    tree: &[u8],
    ram: &GuestMemoryMmap,
) -> Result<(), Error> {
    let boot = vcpus.first().ok_or(Error::Internal("no vCPU".to_owned()))?;
    if !vcpus.iter().all(KvmVcpu::enable_debug_console) {
        debug!("this KVM has no SBI debug console (DBCN, from Linux 6.7 on)");
    }
    let placement = &machine.placement;
    ram.write_slice(tree, GuestAddress(placement.fdt))
        .map_err(|error| Error::Internal(format!("the device tree has no room: {error}")))?;
    boot.boot_at(placement.entry, placement.fdt)
}

/// Entropy for the guest's first random numbers.
fn seed() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Host {
        what: "get random numbers".to_owned(),
        source: io::Error::other(error),
    })?;
    Ok(seed)
}

fn failed(what: &str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm {
        what: what.to_owned(),
        source: error.into(),
    }
}
