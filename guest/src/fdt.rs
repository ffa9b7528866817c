//! The parts of the flattened device tree that this program needs.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use crate::Error;
use crate::intc::Trigger;

/// Most virtio-mmio slots.
pub const MAX_SLOTS: usize = 32;
/// Most levels of nodes.
const MAX_DEPTH: usize = 8;
/// S-mode external interrupt in `interrupts-extended` of a controller.
const S_EXTERNAL: u32 = 9;

/// The machine as the device tree describes it to one hart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board<'a> {
    /// `model` of the root, or "".
    pub model: &'a str,
    /// `/chosen/bootargs`, or "".
    pub bootargs: &'a str,
    /// First address and bytes of the (first) memory.
    pub memory: (u64, u64),
    /// Ticks of the `time` CSR in a second.
    pub timebase: u64,
    /// Whether this hart has its own timer register, `stimecmp` (the Sstc extension).
    pub sstc: bool,
    /// The interrupt controller of the virtio-mmio slots, `None` when there is none or it cannot
    /// interrupt this hart in S-mode.
    pub controller: Option<Controller>,
    slots: [Option<Slot>; MAX_SLOTS],
}

/// One virtio-mmio register block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Address of the registers.
    pub base: u64,
    /// Their length in bytes.
    pub len: u64,
    /// Number of the interrupt source, or 0 without one.
    pub source: u32,
    /// Whether the source is edge-triggered (else level-triggered).
    pub edge: bool,
}

impl Slot {
    /// The form of the interrupt.
    pub fn trigger(&self) -> Trigger {
        if self.edge {
            Trigger::EdgeRising
        } else {
            Trigger::LevelHigh
        }
    }
}

/// An interrupt controller, with the place of this hart's S-mode in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// A PLIC at `base` with sources 1 to `sources`.
    Plic {
        /// Address of the registers.
        base: u64,
        /// Context of this hart's S-mode.
        context: u32,
        /// `riscv,ndev`.
        sources: u32,
    },
    /// An APLIC that interrupts harts directly.
    AplicDirect {
        /// Address of the registers.
        base: u64,
        /// Index of this hart's IDC.
        hart: u32,
        /// `riscv,num-sources`.
        sources: u32,
    },
    /// An APLIC that sends MSIs to IMSICs.
    AplicMsi {
        /// Address of the registers.
        base: u64,
        /// Index of this hart in the targets.
        hart: u32,
        /// `riscv,num-sources`.
        sources: u32,
        /// `riscv,num-ids` of the IMSICs.
        identities: u32,
    },
}

impl<'a> Board<'a> {
    /// Reads the device tree on behalf of hart `hart`.
    ///
    /// # Errors
    ///
    /// [`Error::FdtMissing`] without memory or timebase, [`Error::FdtHart`] without this hart.
    pub fn read(fdt: Fdt<'a>, hart: usize) -> Result<Self, Error> {
        let root = fdt.root();
        let cpu = cpu(fdt, hart).ok_or(Error::FdtHart(hart))?;
        let intc = cpu_intc(cpu).ok_or(Error::FdtHart(hart))?;
        let mut slots = [None; MAX_SLOTS];
        let mut parent = None;
        let mut free = slots.iter_mut();
        walk(root, None, 0, &mut |node, interrupts| {
            if node.is_compatible("virtio,mmio")
                && let Some(slot) = slot(node)
                && let Some(free) = free.next()
            {
                *free = Some(slot);
                parent = interrupts.or(parent);
            }
        });
        // The tree lists them in any order; sort them by address.
        slots.sort_unstable_by_key(|slot| (slot.is_none(), *slot));
        Ok(Self {
            model: text(root, "model"),
            bootargs: bootargs(fdt),
            memory: memory(fdt).ok_or(Error::FdtMissing("memory"))?,
            timebase: timebase(fdt).ok_or(Error::FdtMissing("/cpus timebase-frequency"))?,
            sstc: has_extension(cpu, "sstc"),
            controller: controller(root, parent, intc),
            slots,
        })
    }

    /// The virtio-mmio slots, by rising address.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().flatten().copied()
    }
}

/// `/chosen/bootargs`, or "".
pub fn bootargs(fdt: Fdt<'_>) -> &str {
    fdt.find_node("/chosen")
        .map_or("", |chosen| text(chosen, "bootargs"))
}

/// The address of QEMU's test finisher, a register whose writes end the machine.
pub fn finisher(fdt: Fdt<'_>) -> Option<u64> {
    base(fdt, "sifive,test0")
}

/// The address of the serial port, a 16550 with registers at single bytes.
pub fn uart(fdt: Fdt<'_>) -> Option<u64> {
    base(fdt, "ns16550a")
}

/// The address of the last node that is compatible with this.
fn base(fdt: Fdt<'_>, compatible: &str) -> Option<u64> {
    let mut found = None;
    walk(fdt.root(), None, 0, &mut |node, _| {
        if node.is_compatible(compatible) {
            found = first_reg(node);
        }
    });
    found.map(|(base, _)| base)
}

fn memory(fdt: Fdt<'_>) -> Option<(u64, u64)> {
    let reg = fdt.find_node("/memory")?.reg().ok()??.next()?;
    Some((reg.address().ok()?, reg.size().ok()?))
}

/// Ticks of the `time` CSR in a second.
pub fn timebase(fdt: Fdt<'_>) -> Option<u64> {
    let cpus = fdt.find_node("/cpus")?;
    number(cpus, "timebase-frequency")
        .map(u64::from)
        .filter(|hz| *hz > 0)
}

/// The hartids in `/cpus`, in its order, without those whose status is not okay.
pub fn harts(fdt: Fdt<'_>) -> impl Iterator<Item = usize> {
    let cpus = fdt.find_node("/cpus");
    cpus.into_iter()
        .flat_map(|cpus| cpus.children())
        .filter(|node| node.name_without_address() == "cpu")
        .filter(|cpu| matches!(text(*cpu, "status"), "" | "okay" | "ok"))
        .filter_map(|cpu| usize::try_from(hartid(cpu)?).ok())
}

fn hartid(cpu: FdtNode<'_>) -> Option<u64> {
    cpu.reg().ok()??.next()?.address().ok()
}

/// The node of hart `hart`.
fn cpu(fdt: Fdt<'_>, hart: usize) -> Option<FdtNode<'_>> {
    fdt.find_node("/cpus")?
        .children()
        .filter(|node| node.name_without_address() == "cpu")
        .find(|cpu| hartid(*cpu).is_some_and(|id| usize::try_from(id) == Ok(hart)))
}

/// Whether a hart has an extension of more than one letter: by the list of the current bindings,
/// else by the ISA string.
fn has_extension(cpu: FdtNode<'_>, name: &str) -> bool {
    match cpu.property("riscv,isa-extensions") {
        Some(list) => list
            .value()
            .split(|byte| *byte == 0)
            .any(|extension| extension == name.as_bytes()),
        None => text(cpu, "riscv,isa").split('_').any(|part| part == name),
    }
}

/// The phandle of the interrupt controller inside a hart.
fn cpu_intc(cpu: FdtNode<'_>) -> Option<u32> {
    cpu.children()
        .find(|node| node.is_compatible("riscv,cpu-intc"))?
        .phandle()
        .ok()?
}

fn slot(node: FdtNode<'_>) -> Option<Slot> {
    let (base, len) = first_reg(node)?;
    let interrupts = node.property("interrupts");
    let mut cells = interrupts
        .iter()
        .flat_map(|property| property.value().as_chunks::<4>().0);
    let source = cells.next().map_or(0, |cell| u32::from_be_bytes(*cell));
    // IRQ_TYPE_EDGE_RISING; without a second cell (PLIC) the line is a level.
    let edge = cells.next() == Some(&1_u32.to_be_bytes());
    Some(Slot { base, len, source, edge })
}

/// The interrupt controller with the given phandle, or without one the first that can interrupt
/// the S-mode of the hart whose own controller is `intc`.
fn controller(root: FdtNode<'_>, phandle: Option<u32>, intc: u32) -> Option<Controller> {
    let mut found = None;
    walk(root, None, 0, &mut |node, _| {
        let wanted = phandle.is_none() || node.phandle().ok().flatten() == phandle;
        if found.is_none() && wanted {
            found = plic(node, intc).or_else(|| aplic(root, node, intc));
        }
    });
    found
}

fn plic(node: FdtNode<'_>, intc: u32) -> Option<Controller> {
    let names = ["riscv,plic0", "sifive,plic-1.0.0"];
    if !names.iter().any(|name| node.is_compatible(name)) {
        return None;
    }
    let (base, _) = first_reg(node)?;
    let context = context(node, intc)?;
    Some(Controller::Plic { base, context, sources: number(node, "riscv,ndev")? })
}

fn aplic(root: FdtNode<'_>, node: FdtNode<'_>, intc: u32) -> Option<Controller> {
    if !node.is_compatible("riscv,aplic") {
        return None;
    }
    let (base, _) = first_reg(node)?;
    let sources = number(node, "riscv,num-sources")?;
    let Some(msi_parent) = number(node, "msi-parent") else {
        return Some(Controller::AplicDirect { base, hart: context(node, intc)?, sources });
    };
    let mut imsic = None;
    walk(root, None, 0, &mut |node, _| {
        if node.is_compatible("riscv,imsics") && node.phandle().ok().flatten() == Some(msi_parent) {
            imsic = Some(node);
        }
    });
    let imsic = imsic?;
    // Hart indices are positions only as long as all IMSICs are in one group (AIA §3.6).
    if number(imsic, "riscv,group-index-bits").unwrap_or(0) != 0 {
        return None;
    }
    let hart = context(imsic, intc)?;
    let identities = number(imsic, "riscv,num-ids")?;
    Some(Controller::AplicMsi { base, hart, sources, identities })
}

/// The position of this hart's S-mode among the pairs of `interrupts-extended`.
fn context(node: FdtNode<'_>, intc: u32) -> Option<u32> {
    let property = node.property("interrupts-extended")?;
    let (pairs, _) = property.value().as_chunks::<8>();
    let wanted = u64::from(intc) << 32 | u64::from(S_EXTERNAL);
    let position = pairs
        .iter()
        .position(|pair| u64::from_be_bytes(*pair) == wanted)?;
    u32::try_from(position).ok()
}

/// Calls `visit` for a node and all nodes below it, with their interrupt parent.
fn walk<'a>(
    node: FdtNode<'a>,
    inherited: Option<u32>,
    depth: usize,
    visit: &mut dyn FnMut(FdtNode<'a>, Option<u32>),
) {
    let parent = number(node, "interrupt-parent").or(inherited);
    visit(node, parent);
    if depth < MAX_DEPTH {
        for child in node.children() {
            walk(child, parent, depth + 1, visit);
        }
    }
}

fn first_reg(node: FdtNode<'_>) -> Option<(u64, u64)> {
    let reg = node.reg().ok()??.next()?;
    Some((reg.address().ok()?, reg.size().ok()?))
}

fn number(node: FdtNode<'_>, property: &str) -> Option<u32> {
    node.property(property)?.value_as().ok()
}

fn text<'a>(node: FdtNode<'a>, property: &str) -> &'a str {
    node.property(property)
        .and_then(|property| property.value_as().ok())
        .unwrap_or("")
}

#[cfg(test)]
#[path = "fdt_test.rs"]
mod tests;
