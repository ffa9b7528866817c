//! Running a machine on Linux KVM for RISC-V.
//!
//! ```text
//!   main thread   builds the machine, then waits for its end or a signal
//!   vcpu0 …       one thread each: KVM_RUN, answer, again (crate::vcpu)
//!   console, …    one worker thread each live device (devices::virtio::worker)
//! ```

mod aia;
mod cpu;
mod end;
mod ext;
mod group;
mod irq;
mod ram;
mod registers;
mod report;
pub(crate) mod slice;
mod stats;
mod threads;
mod vcpu;
mod vm;

use std::io::{self, Cursor};
use std::sync::Arc;

use devices::memory::Memory;
use devices::platform::bus::Bus;
use devices::transport::mmio::{Mmio, QUEUE_NOTIFY};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use linux_loader::loader::load_dtb;
use log::{debug, info, warn};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use self::end::Ending;
use self::irq::Irqchip;
use self::slice::ShortSlice;
use self::vcpu::KvmVcpu;
use self::vm::Hardware;
use crate::board::{Devices, Sizes};
use crate::consoles::Consoles;
use crate::error::Error;
use crate::fdt::{self, Board};
use crate::hart::fault::{Budget, Faults};
use crate::loader::{self, Format};
use crate::machine::{Disk, End, Machine};
use crate::observe::{Moment, Observer};
use crate::signals::{REPORT, RESIZED};
use crate::{board, dtb, layout, platform, sbi};

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

/// Runs `machine` until it ends. A guest that reboots finds everything new but its disks and the far ends of its consoles.
///
/// # Errors
/// This host's KVM cannot run it, or a system call failed.
pub fn run(machine: &Machine, observer: &dyn Observer) -> Result<End, Error> {
    let kvm = open()?;
    let ending = Arc::new(Ending::new()?);
    if machine.dump_dtb.is_none() {
        machine.disks.iter().try_for_each(Disk::lock)?;
    }
    let leave = Arc::clone(&ending);
    let consoles = Consoles::open(machine, move || leave.set(Ok(End::Left)))?;
    let budget = Budget::default();
    loop {
        boot(&kvm, machine, &consoles, &budget, &ending, observer)?;
        if machine.config.no_reboot.is_some() || !ending.forget_reboot() {
            hint_at_silence(machine, &consoles);
            return ending.take();
        }
        info!("the guest reboots");
    }
}

/// A kernel of a distribution may have no driver for the console that it was told to use.
fn hint_at_silence(machine: &Machine, consoles: &Consoles) {
    let ran = machine.dump_dtb.is_none();
    if ran && machine.kernel.format() == Format::Image && !consoles.were_used() {
        warn!(
            "the guest used no console: --cmdline 'console=ttyS0 earlycon=sbi' needs no module, console=hvc0 needs virtio_mmio"
        );
    }
}

/// One life of the guest: a VM of its own, from the first instruction to the end. KVM resets a VM only as a whole.
fn boot(
    kvm: &Kvm,
    machine: &Machine,
    consoles: &Consoles,
    budget: &Budget,
    ending: &Arc<Ending>,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let hardware = vm::create(kvm, machine.config.cpus, machine.config.irqchip)?;
    cpu::configure(&hardware.vcpus, machine);
    let ram = Arc::new(ram::map(&hardware.vm, &machine.config.memory)?);
    // The VM ends in there and its memory here: while it is there, KVM follows each change of its memory page by page.
    live(
        machine,
        hardware,
        Arc::clone(&ram),
        consoles,
        budget,
        ending,
        observer,
    )
}

/// From the VM with its memory to its end.
fn live(
    machine: &Machine,
    hardware: Hardware,
    ram: Arc<GuestMemoryMmap>,
    consoles: &Consoles,
    budget: &Budget,
    ending: &Arc<Ending>,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let Hardware { vm, mut vcpus, aia } = hardware;
    let mut bus = Bus::default();
    let irqchip = match aia {
        Some(aia) => Irqchip::Aia(aia),
        None => Irqchip::plic(&mut bus, &vcpus)?,
    };
    let Devices { models, disks } = Devices::new(machine, consoles)?;
    let memory = Memory::new(Arc::clone(&ram));
    let line = |irq| irqchip.source(&vm, irq);
    let short = ShortSlice::begin();
    let devices = board::plug(&mut bus, &memory, models, observer, line)?;
    drop(short);
    devices
        .iter()
        .take(1)
        .for_each(|first| consoles.show(first));
    let end = Arc::clone(ending);
    let serial = platform::plug(
        &mut bus,
        consoles,
        |irq| irqchip.source(&vm, irq),
        move |how| end.set(Ok(how)),
    )?;

    loader::load(
        &machine.kernel,
        machine.initrd.as_ref(),
        &machine.placement,
        &ram,
    )?;
    show_memory(&vm, &ram, &devices)?;
    let timebase = first(&vcpus)?.timebase()?;
    let tree = device_tree(machine, &vcpus, timebase, irqchip.describe(), devices.len())?;
    if let Some(path) = &machine.dump_dtb {
        return dtb::dump(path, &tree).map(|()| ending.set(Ok(End::PowerOff)));
    }
    prepare_boot(machine, &vcpus, &tree, &ram)?;
    let (input, output) = consoles.sbi()?;
    let faults = Faults::new(Arc::clone(&ram), budget.clone());
    let console = sbi::Console::new(ram, input, output);

    let sizes = Sizes::new(machine, disks, &devices);
    observer.notify(Moment::VmStarted { timebase });
    let wanted = observer.wants_kvm();
    let counters = wanted.then(|| stats::Counters::open(&vm, &vcpus));
    let counted = || counters.as_ref().map(stats::Counters::read);
    let heard = |signal| match signal {
        RESIZED => sizes.look(),
        REPORT => observer.notify(Moment::Report(counted())),
        _ => {}
    };
    threads::run(&mut vcpus, &bus, &console, &faults, ending, observer, heard)?;
    devices.iter().for_each(|device| device.stop());
    serial.stop();
    if serial.has_sent() || console.has_sent() {
        consoles.note_output();
    }
    observer.notify(Moment::VmStopped(counted().unwrap_or_default()));
    Ok(())
}

/// Gives the guest its memory, and the registers that it loads and stores without an exit.
///
/// Late, and memory first: in Linux from 6.18 on, a change of the memory slots waits for what KVM frees after a change of
/// its I/O bus (kvm_io_bus_register_dev, call_srcu), up to two ticks. The AIA and each ioeventfd are such a change. What
/// the AIA leaves behind is freed while the kernel is loaded.
fn show_memory(vm: &VmFd, ram: &GuestMemoryMmap, devices: &[Arc<Mmio>]) -> Result<(), Error> {
    ram::show(vm, ram)?;
    registers::show(vm, ram.num_regions(), devices);
    attach_kicks(vm, devices);
    Ok(())
}

/// `/dev/kvm`, if it is there, ours to open, and speaks the one version of its interface that there is.
fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::KvmPermission {
            group: group::kvm_group(),
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

/// Lets KVM turn a store to QueueNotify into the queue's event, in the kernel. Without that the store comes to us as any
/// other, and has the same effect. It does so too for a queue that is served at once, by the thread of the vCPU.
fn attach_kicks(vm: &VmFd, devices: &[Arc<Mmio>]) {
    if !vm.check_extension(Cap::Ioeventfd) {
        return debug!("no ioeventfd: every notification exits to user space");
    }
    for (slot, device) in devices.iter().enumerate() {
        let address = layout::virtio_address(slot) + QUEUE_NOTIFY;
        for (queue, kick) in device.kicks() {
            let address = IoEventAddress::Mmio(address);
            if let Err(error) = vm.register_ioevent(kick, &address, queue) {
                debug!("slot {slot} queue {queue}: no ioeventfd: {error}");
            }
        }
    }
}

/// The device tree that the guest gets.
fn device_tree(
    machine: &Machine,
    vcpus: &[KvmVcpu],
    timebase: u32,
    irqchip: fdt::Irqchip,
    slots: usize,
) -> Result<Vec<u8>, Error> {
    if let Some(dtb) = &machine.dtb {
        return Ok(dtb.tree.clone());
    }
    let describe = |vcpu| cpu::describe(vcpu, machine, irqchip);
    let harts: Vec<_> = vcpus.iter().map(describe).collect();
    fdt::build(&Board {
        cmdline: &machine.config.cmdline,
        memory: machine.config.memory.size,
        harts: &harts,
        timebase,
        initrd: machine.placement.initrd.clone(),
        virtio_slots: slots,
        rng_seed: seed()?,
        irqchip,
    })
}

/// The device tree to its place, and the boot hart's registers.
fn prepare_boot(
    machine: &Machine,
    vcpus: &[KvmVcpu],
    tree: &[u8],
    ram: &GuestMemoryMmap,
) -> Result<(), Error> {
    let placement = &machine.placement;
    load_dtb(ram, GuestAddress(placement.fdt), &mut Cursor::new(tree))
        .map_err(|error| Error::Internal(format!("the device tree has no room: {error}")))?;
    first(vcpus)?.boot_at(placement.entry, placement.fdt)
}

/// The vCPU that the guest begins on.
fn first(vcpus: &[KvmVcpu]) -> Result<&KvmVcpu, Error> {
    vcpus.first().ok_or(Error::Internal("no vCPU".to_owned()))
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
