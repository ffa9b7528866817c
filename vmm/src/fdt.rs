//! The device tree of the board, with the node names and compatible strings of QEMU's `virt`.
//!
//! Only virtio-mmio slots with a device have a node. The nodes of the platform devices (serial
//! port, clock, finisher, pvpanic) are in `fdt/platform.rs`.

use std::io;
use std::ops::Range;

use vm_fdt::{Error as WriterError, FdtWriter};

use crate::error::Error;
use crate::layout::{
    self, APLIC_BASE, APLIC_SIZE, APLIC_SOURCES, FDT_MAX_SIZE, IMSIC_BASE, IMSIC_IDS, IMSIC_SIZE,
    PLIC_BASE, PLIC_SIZE, PLIC_SOURCES, RAM_BASE, VIRTIO_STRIDE,
};

mod error;
mod platform;

pub use error::FdtError;

/// Interrupt number of a hart's supervisor external interrupt (privileged spec, scause).
const SUPERVISOR_EXTERNAL: u32 = 9;
/// A PLIC context without a hart: each hart's M-mode context, as the guest starts in S-mode
/// (binding of sifive,plic-1.0.0).
const NO_CONTEXT: u32 = u32::MAX;
/// Spare bytes at the end of a device tree. Boot loaders edit the tree in place: U-Boot adds the
/// command line, the initrd and memory reservations, and fails if there is no space.
const SLACK: usize = 8 << 10;
/// Phandle of the devices' interrupt parent: the PLIC or the APLIC.
const IRQCHIP_PHANDLE: u32 = 1;
/// Phandle of the IMSICs.
const IMSIC_PHANDLE: u32 = 2;
/// Phandle of the test finisher.
const FINISHER_PHANDLE: u32 = 3;
/// Phandle of hart 0's interrupt controller; hart h has this + h.
const HART_PHANDLE: u32 = 4;

/// The properties of a hart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hart {
    /// The ISA string: `rv64imafdc_zicsr_…`.
    pub isa: String,
    /// The same extensions as a list: `i`, `m`, …, `zicsr`, ….
    pub extensions: Vec<String>,
    /// The largest paging mode: `riscv,sv39`, `riscv,sv48`, `riscv,sv57`.
    pub mmu_type: String,
    /// Block size in bytes of Zicbom (cbo.clean, cbo.flush, cbo.inval), if the hart has it.
    pub cbom_block: Option<u32>,
    /// Block size in bytes of Zicboz (cbo.zero), if the hart has it.
    pub cboz_block: Option<u32>,
}

/// The interrupt controller of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// A PLIC. The S context of hart h is 2h + 1. An interrupt has one cell, the source.
    Plic,
    /// An APLIC that sends MSIs to the harts' IMSICs. An interrupt has two cells, the source and
    /// its trigger.
    Aia,
}

/// The trigger of an interrupt: the second cell under an APLIC, with the values used by all device
/// trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// A virtio device: [`devices::transport::interrupt::Interrupt::acknowledge`] raises a new edge
    /// if bits are left.
    EdgeRising = 1,
    /// A device whose line stays high while it has a reason to interrupt.
    LevelHigh = 4,
}

/// What the device tree describes.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// RAM in bytes, from [`RAM_BASE`].
    pub memory: u64,
    /// The harts; the index is the hartid.
    pub harts: &'a [Hart],
    /// Ticks per second of the `time` CSR.
    pub timebase: u32,
    /// Guest physical addresses of the initrd.
    pub initrd: Option<Range<u64>>,
    /// The interrupt controller of the devices.
    pub irqchip: Irqchip,
    /// The number of virtio-mmio slots with a device; these are the first ones.
    pub virtio_slots: usize,
    /// Random bytes from the host that seed the guest's random number generator.
    pub seed: [u8; 32],
}

/// Builds the device tree of a board: a DTB of at most [`FDT_MAX_SIZE`] bytes, including
/// [slack](with_slack).
pub fn build(board: &Board) -> Result<Vec<u8>, Error> {
    let dtb = tree(board).map_err(FdtError::Build)?;
    match dtb.len() {
        size if size as u64 > FDT_MAX_SIZE => {
            Err(Error::from(FdtError::Size { size, limit: FDT_MAX_SIZE }))
        }
        _ => Ok(with_slack(dtb)),
    }
}

/// Appends 8 KiB of slack, or less where [`FDT_MAX_SIZE`] is reached.
///
/// This is possible because the strings block, or earlier slack, is the last block of these trees.
/// A boot loader finds the slack by `totalsize` in the header (Devicetree Specification
/// v0.4 § 5.2).
pub fn with_slack(mut dtb: Vec<u8>) -> Vec<u8> {
    let limit = usize::try_from(FDT_MAX_SIZE).unwrap_or(usize::MAX);
    let size = dtb.len().saturating_add(SLACK).min(limit);
    let Ok(total) = u32::try_from(size) else {
        return dtb;
    };
    if size > dtb.len()
        && let Some(field) = dtb.get_mut(4..8)
    {
        field.copy_from_slice(&total.to_be_bytes());
        dtb.resize(size, 0);
    }
    dtb
}

fn tree(board: &Board) -> Result<Vec<u8>, WriterError> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "riscv-virtio")?;
    fdt.property_string("model", "hartvisor,virt")?;
    chosen(&mut fdt, board)?;
    memory(&mut fdt, board.memory)?;
    cpus(&mut fdt, board)?;
    soc(&mut fdt, board)?;
    platform::power(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, board: &Board) -> Result<(), WriterError> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", board.cmdline)?;
    if let Some(initrd) = &board.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    fdt.property_string("stdout-path", &platform::stdout_path())?;
    fdt.property("rng-seed", &board.seed)?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, memory: u64) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM_BASE, memory])?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, board: &Board) -> Result<(), WriterError> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    fdt.property_u32("timebase-frequency", board.timebase)?;
    for (id, hart) in (0..).zip(board.harts) {
        cpu(fdt, id, hart)?;
    }
    fdt.end_node(node)
}

fn cpu(fdt: &mut FdtWriter, id: u32, hart: &Hart) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("cpu@{id:x}"))?;
    fdt.property_string("device_type", "cpu")?;
    fdt.property_u32("reg", id)?;
    fdt.property_string("status", "okay")?;
    fdt.property_string("compatible", "riscv")?;
    fdt.property_string("riscv,isa", &hart.isa)?;
    fdt.property_string("riscv,isa-base", "rv64i")?;
    fdt.property_string_list("riscv,isa-extensions", hart.extensions.clone())?;
    fdt.property_string("mmu-type", &hart.mmu_type)?;
    if let Some(bytes) = hart.cbom_block {
        fdt.property_u32("riscv,cbom-block-size", bytes)?;
    }
    if let Some(bytes) = hart.cboz_block {
        fdt.property_u32("riscv,cboz-block-size", bytes)?;
    }
    let own = fdt.begin_node("interrupt-controller")?;
    fdt.property_string("compatible", "riscv,cpu-intc")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_phandle(HART_PHANDLE.saturating_add(id))?;
    fdt.end_node(own)?;
    fdt.end_node(node)
}

fn soc(fdt: &mut FdtWriter, board: &Board) -> Result<(), WriterError> {
    let node = fdt.begin_node("soc")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "simple-bus")?;
    fdt.property_null("ranges")?;
    match board.irqchip {
        Irqchip::Plic => plic(fdt, board.harts.len())?,
        Irqchip::Aia => {
            imsics(fdt, board.harts.len())?;
            aplic(fdt)?;
        }
    }
    platform::devices(fdt, board.irqchip)?;
    for slot in 0..board.virtio_slots {
        virtio(fdt, slot, board.irqchip)?;
    }
    fdt.end_node(node)
}

fn plic(fdt: &mut FdtWriter, harts: usize) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("plic@{PLIC_BASE:x}"))?;
    fdt.property_string_list(
        "compatible",
        vec!["sifive,plic-1.0.0".into(), "riscv,plic0".into()],
    )?;
    fdt.property_array_u64("reg", &[PLIC_BASE, PLIC_SIZE])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_u32("riscv,ndev", PLIC_SOURCES)?;
    let contexts: Vec<u32> = (HART_PHANDLE..)
        .take(harts)
        .flat_map(|hart| [hart, NO_CONTEXT, hart, SUPERVISOR_EXTERNAL])
        .collect();
    fdt.property_array_u32("interrupts-extended", &contexts)?;
    fdt.property_phandle(IRQCHIP_PHANDLE)?;
    fdt.end_node(node)
}

/// The IMSIC interrupt files of all harts (binding of riscv,imsics).
fn imsics(fdt: &mut FdtWriter, harts: usize) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("interrupt-controller@{IMSIC_BASE:x}"))?;
    fdt.property_string_list(
        "compatible",
        vec!["qemu,imsics".into(), "riscv,imsics".into()],
    )?;
    fdt.property_array_u64("reg", &[IMSIC_BASE, IMSIC_SIZE * harts as u64])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 0)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 0)?;
    fdt.property_u32("riscv,num-ids", IMSIC_IDS)?;
    let files: Vec<u32> = (HART_PHANDLE..)
        .take(harts)
        .flat_map(|hart| [hart, SUPERVISOR_EXTERNAL])
        .collect();
    fdt.property_array_u32("interrupts-extended", &files)?;
    fdt.property_phandle(IMSIC_PHANDLE)?;
    fdt.end_node(node)
}

/// The APLIC, which turns wired interrupts into MSIs (binding of riscv,aplic).
fn aplic(fdt: &mut FdtWriter) -> Result<(), WriterError> {
    let node = fdt.begin_node(&format!("interrupt-controller@{APLIC_BASE:x}"))?;
    fdt.property_string_list(
        "compatible",
        vec!["qemu,aplic".into(), "riscv,aplic".into()],
    )?;
    fdt.property_array_u64("reg", &[APLIC_BASE, APLIC_SIZE])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_u32("riscv,num-sources", APLIC_SOURCES)?;
    fdt.property_u32("msi-parent", IMSIC_PHANDLE)?;
    fdt.property_phandle(IRQCHIP_PHANDLE)?;
    fdt.end_node(node)
}

/// The interrupt of a device: its source and, under an APLIC, its trigger. PLIC sources have no
/// trigger cell.
fn interrupts(
    fdt: &mut FdtWriter,
    irqchip: Irqchip,
    source: u32,
    trigger: Trigger,
) -> Result<(), WriterError> {
    fdt.property_u32("interrupt-parent", IRQCHIP_PHANDLE)?;
    match irqchip {
        Irqchip::Plic => fdt.property_u32("interrupts", source),
        Irqchip::Aia => fdt.property_array_u32("interrupts", &[source, trigger as u32]),
    }
}

fn virtio(fdt: &mut FdtWriter, slot: usize, irqchip: Irqchip) -> Result<(), WriterError> {
    let address = layout::virtio_address(slot);
    let node = fdt.begin_node(&format!("virtio_mmio@{address:x}"))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[address, VIRTIO_STRIDE])?;
    interrupts(fdt, irqchip, layout::virtio_irq(slot), Trigger::EdgeRising)?;
    fdt.end_node(node)
}

/// Returns entropy for the guest's random number generator.
///
/// # Errors
/// The host has no entropy source.
pub fn seed() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Host {
        what: "get random numbers".to_owned(),
        source: io::Error::other(error),
    })?;
    Ok(seed)
}

#[cfg(test)]
#[path = "fdt_test.rs"]
mod tests;
