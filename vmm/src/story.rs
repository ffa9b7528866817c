//! What a run consists of: in the log (`HARTVISOR_LOG=info`), and in brief for a user at a
//! terminal.

use std::io::{self, IsTerminal};

use log::{info, warn};

use crate::config::{self, Target};
use crate::loader::Format;
use crate::machine::{Disk, Machine};
use crate::{size, stderr};

/// Logs everything that distinguishes this run from another.
pub(crate) fn log(machine: &Machine) {
    let (config, kernel) = (&machine.config, &machine.kernel);
    let form = match kernel.format() {
        Format::Elf => "ELF",
        Format::StaticPie => "position-independent ELF",
        Format::Image => "flat Image",
        Format::Raw => "raw binary",
    };
    let unpacked = kernel.compression();
    let unpacked = unpacked.map_or(String::new(), |by| format!(", compressed by {by}"));
    let segments = kernel.segments();
    let start = segments.first().map_or(0, |first| first.address);
    let end = segments.last().map_or(0, |last| last.range().end);
    let entry = kernel.entry();
    info!(
        "kernel {:?}: {form}{unpacked}, {start:#x}..{end:#x}, entry {entry:#x}",
        kernel.path()
    );
    if let (Some(initrd), Some(at)) = (&machine.initrd, &machine.placement.initrd) {
        info!(
            "initrd {:?}: {:#x}..{:#x} on KVM",
            initrd.path, at.start, at.end
        );
    }
    match &machine.dtb {
        Some(dtb) => info!("device tree {:?}", dtb.path),
        None => info!(
            "device tree: generated, at {:#x} on KVM",
            machine.placement.fdt
        ),
    }
    info!("vCPUs: {}; RAM: {}", config.cpus, config.memory);
    for (index, disk) in machine.disks.iter().enumerate() {
        info!("disk{index} {}", describe(disk));
    }
    for (index, card) in machine.cards.iter().enumerate() {
        let mtu = card.mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
        info!(
            "net{index}: {}, mac {}, mtu {mtu}",
            card.describe(),
            card.mac
        );
    }
    if let Some(vsock) = &config.vsock {
        info!("vsock: cid {}, socket {:?}", vsock.cid, vsock.path);
    }
    for (_, label, target) in config.consoles() {
        info!("{label} {target}");
    }
}

/// Describes a disk by what affects the guest and other users of the file.
fn describe(disk: &Disk) -> String {
    let config = &disk.config;
    let format = disk.format.name();
    let access = match config.readonly {
        true => "read-only",
        false => "read-write",
    };
    let cache = match (config.direct, config.write_through) {
        (true, false) => "direct",
        (true, true) => "direct, writethrough",
        (false, false) => "writeback",
        (false, true) => "writethrough",
    };
    let lock = if config.lock { "on" } else { "off" };
    let (path, size, queues) = (&config.path, size::show(disk.size), disk.queues);
    let block_size = config.block_size;
    format!(
        "{path:?}: {format}, {size}, {access}, cache={cache}, lock={lock}, queues={queues}, block-size={block_size}"
    )
}

/// Tells a user at a terminal that the guest starts. Its first output may take a while.
pub(crate) fn greet(config: &config::Machine) {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return;
    }
    let (cpus, memory) = (config.cpus, size::show(config.memory.size));
    let plural = if cpus == 1 { "" } else { "s" };
    let keys = match [&config.console, &config.serial].contains(&&Target::Stdio) {
        true => "; Ctrl-a x quits, Ctrl-a h helps",
        false => "",
    };
    stderr::line(format_args!(
        "using KVM: {cpus} vCPU{plural}, {memory}{keys}"
    ));
}

/// A hint at the end of a run whose guest was silent, as `what` says: a distribution's kernel may
/// lack the driver of the console named on its command line.
pub(crate) fn hint_at_silence(machine: &Machine, what: &str) {
    if machine.kernel.format() == Format::Image {
        warn!(
            "{what}: --cmdline 'console=ttyS0 earlycon=sbi' needs no module, console=hvc0 needs virtio_mmio"
        );
    }
}
