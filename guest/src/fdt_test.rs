use std::vec::Vec;

use dtoolkit::fdt::Fdt;
use vm_fdt::FdtWriter;

use super::{Board, Controller, MAX_SLOTS, Slot, bootargs, finisher, harts};
use crate::Error;

/// `qemu-system-riscv64 -M virt,…,dumpdtb=FILE -m 128M -smp 2 -append "test x=1"`, QEMU 10.0.
const PLIC: &[u8] = include_bytes!("../tests/data/qemu-virt-plic.dtb");
/// With `aia=aplic`.
const APLIC: &[u8] = include_bytes!("../tests/data/qemu-virt-aplic.dtb");
/// With `aia=aplic-imsic,aia-guests=1`.
const IMSIC: &[u8] = include_bytes!("../tests/data/qemu-virt-aplic-imsic.dtb");

fn board(blob: &[u8], hart: usize) -> Result<Board<'_>, Error> {
    Board::read(Fdt::new(blob).unwrap(), hart)
}

#[test]
fn qemus_machine_is_read_as_it_is() {
    let board = board(PLIC, 0).unwrap();
    assert_eq!(board.model, "riscv-virtio,qemu");
    assert_eq!(board.bootargs, "test x=1");
    assert_eq!(board.memory, (0x8000_0000, 128 << 20));
    assert_eq!(board.timebase, 10_000_000);
    assert!(board.sstc);
    let slots: Vec<_> = board.slots().collect();
    let slot = |index: u64| Slot {
        base: 0x1000_1000 + 0x1000 * index,
        len: 0x1000,
        source: u32::try_from(index).unwrap() + 1,
        edge: false,
    };
    assert_eq!(slots, (0..8).map(slot).collect::<Vec<_>>());
    assert_eq!(finisher(Fdt::new(PLIC).unwrap()), Some(0x10_0000));
}

#[test]
fn the_plic_context_is_the_harts_s_mode() {
    for (hart, context) in [(0, 1), (1, 3)] {
        let plic = Controller::Plic { base: 0x0c00_0000, context, sources: 95 };
        assert_eq!(board(PLIC, hart).unwrap().controller, Some(plic));
    }
}

#[test]
fn all_harts_are_listed() {
    let harts: Vec<_> = harts(Fdt::new(PLIC).unwrap()).collect();
    assert_eq!(harts, [0, 1]);
}

#[test]
fn of_two_aplics_it_is_the_s_mode_one() {
    for (hart, index) in [(0, 0), (1, 1)] {
        let aplic = Controller::AplicDirect { base: 0x0d00_0000, hart: index, sources: 96 };
        assert_eq!(board(APLIC, hart).unwrap().controller, Some(aplic));
    }
    // Two interrupt cells: the slots have their sources all the same.
    let sources: Vec<_> = board(APLIC, 0)
        .unwrap()
        .slots()
        .map(|slot| slot.source)
        .collect();
    assert_eq!(sources, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn an_aplic_with_an_imsic_sends_msis() {
    for (hart, index) in [(0, 0), (1, 1)] {
        let aplic =
            Controller::AplicMsi { base: 0x0d00_0000, hart: index, sources: 96, identities: 255 };
        assert_eq!(board(IMSIC, hart).unwrap().controller, Some(aplic));
    }
}

#[test]
fn a_hart_that_is_not_there_is_named() {
    assert_eq!(board(PLIC, 2).unwrap_err(), Error::FdtHart(2));
}

#[test]
fn every_truncation_is_refused_or_read_without_a_panic() {
    for blob in [PLIC, IMSIC] {
        for len in 0..blob.len() {
            if let Ok(fdt) = Fdt::new(&blob[..len]) {
                let _ = Board::read(fdt, 0);
            }
        }
    }
}

#[test]
fn flipped_bytes_are_refused_or_read_without_a_panic() {
    let mut blob = IMSIC.to_vec();
    for (at, flip) in (0..blob.len())
        .step_by(5)
        .zip([0x01, 0x80, 0xff].into_iter().cycle())
    {
        blob[at] ^= flip;
        if let Ok(fdt) = Fdt::new(&blob) {
            let _ = Board::read(fdt, 0);
            let _ = finisher(fdt);
        }
        blob[at] ^= flip;
    }
}

/// Which parts of a machine to leave out or to write otherwise.
#[derive(Clone, Copy, Default)]
struct Odd {
    no_timebase: bool,
    no_memory: bool,
    no_bootargs: bool,
    /// The PLIC knows the hart's M-mode only.
    machine_mode_only: bool,
    edge: bool,
    slots: u32,
    /// `riscv,isa` of the hart, or none.
    isa: Option<&'static str>,
    /// `riscv,isa-extensions` of the hart, or none.
    extensions: &'static [&'static str],
}

fn build(odd: Odd) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    // Holds for all below: the slots have no parent of their own.
    fdt.property_u32("interrupt-parent", 9).unwrap();
    if !odd.no_bootargs {
        let chosen = fdt.begin_node("chosen").unwrap();
        fdt.property_string("bootargs", "echo").unwrap();
        fdt.end_node(chosen).unwrap();
    }
    if !odd.no_memory {
        let memory = fdt.begin_node("memory@80000000").unwrap();
        fdt.property_array_u64("reg", &[0x8000_0000, 0x1_0000_0000])
            .unwrap();
        fdt.end_node(memory).unwrap();
    }
    let cpus = fdt.begin_node("cpus").unwrap();
    fdt.property_u32("#address-cells", 1).unwrap();
    fdt.property_u32("#size-cells", 0).unwrap();
    if !odd.no_timebase {
        fdt.property_u32("timebase-frequency", 1_000).unwrap();
    }
    let cpu = fdt.begin_node("cpu@5").unwrap();
    fdt.property_u32("reg", 5).unwrap();
    if let Some(isa) = odd.isa {
        fdt.property_string("riscv,isa", isa).unwrap();
    }
    if !odd.extensions.is_empty() {
        let extensions = odd.extensions.iter().map(|name| (*name).into()).collect();
        fdt.property_string_list("riscv,isa-extensions", extensions)
            .unwrap();
    }
    let intc = fdt.begin_node("interrupt-controller").unwrap();
    fdt.property_string("compatible", "riscv,cpu-intc").unwrap();
    fdt.property_phandle(7).unwrap();
    fdt.end_node(intc).unwrap();
    fdt.end_node(cpu).unwrap();
    fdt.end_node(cpus).unwrap();
    let plic = fdt.begin_node("plic@c000000").unwrap();
    fdt.property_string("compatible", "riscv,plic0").unwrap();
    fdt.property_array_u64("reg", &[0xc00_0000, 0x400_0000])
        .unwrap();
    let interrupt = if odd.machine_mode_only { 11 } else { 9 };
    fdt.property_array_u32("interrupts-extended", &[7, u32::MAX, 7, interrupt])
        .unwrap();
    fdt.property_u32("riscv,ndev", 31).unwrap();
    fdt.property_phandle(9).unwrap();
    fdt.end_node(plic).unwrap();
    for slot in (0..odd.slots).rev() {
        let base = 0x1000_0000 + 0x1000 * u64::from(slot);
        let node = fdt
            .begin_node(&std::format!("virtio_mmio@{base:x}"))
            .unwrap();
        fdt.property_string("compatible", "virtio,mmio").unwrap();
        fdt.property_array_u64("reg", &[base, 0x200]).unwrap();
        let cells = if odd.edge {
            &[slot + 1, 1][..]
        } else {
            &[slot + 1]
        };
        fdt.property_array_u32("interrupts", cells).unwrap();
        fdt.end_node(node).unwrap();
    }
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

#[test]
fn an_inherited_interrupt_parent_counts() {
    let blob = build(Odd { slots: 2, ..Odd::default() });
    let board = board(&blob, 5).unwrap();
    assert_eq!(board.bootargs, "echo");
    assert_eq!(board.memory, (0x8000_0000, 0x1_0000_0000));
    let plic = Controller::Plic { base: 0xc00_0000, context: 1, sources: 31 };
    assert_eq!(board.controller, Some(plic));
    let bases: Vec<_> = board.slots().map(|slot| slot.base).collect();
    assert_eq!(bases, [0x1000_0000, 0x1000_1000], "by rising address");
    assert_eq!(finisher(Fdt::new(&blob).unwrap()), None);
}

#[test]
fn an_extension_is_in_the_list_or_without_one_in_the_isa_string() {
    let sstc = |isa, extensions| {
        let blob = build(Odd { isa, extensions, ..Odd::default() });
        board(&blob, 5).unwrap().sstc
    };
    assert!(sstc(None, &["i", "sstc"]));
    assert!(sstc(Some("rv64imac_sstc_zba"), &[]));
    assert!(!sstc(Some("rv64imac_sstc"), &["i", "sscofpmf"]));
    assert!(!sstc(Some("rv64imac_sstcx"), &[]));
    assert!(!sstc(None, &[]));
}

#[test]
fn a_second_cell_makes_an_edge() {
    let blob = build(Odd { slots: 1, edge: true, ..Odd::default() });
    let edges: Vec<_> = board(&blob, 5)
        .unwrap()
        .slots()
        .map(|slot| slot.edge)
        .collect();
    assert_eq!(edges, [true]);
}

#[test]
fn more_slots_than_there_is_room_for_do_no_harm() {
    let blob = build(Odd { slots: 40, ..Odd::default() });
    assert_eq!(board(&blob, 5).unwrap().slots().count(), MAX_SLOTS);
}

#[test]
fn a_controller_without_this_harts_s_mode_is_none() {
    let blob = build(Odd { machine_mode_only: true, ..Odd::default() });
    assert_eq!(board(&blob, 5).unwrap().controller, None);
}

#[test]
fn what_is_missing_is_named() {
    let blob = build(Odd { no_timebase: true, ..Odd::default() });
    let missing = Error::FdtMissing("/cpus timebase-frequency");
    assert_eq!(board(&blob, 5).unwrap_err(), missing);
    let blob = build(Odd { no_memory: true, ..Odd::default() });
    assert_eq!(board(&blob, 5).unwrap_err(), Error::FdtMissing("memory"));
    let blob = build(Odd { no_bootargs: true, ..Odd::default() });
    assert_eq!(bootargs(Fdt::new(&blob).unwrap()), "");
}
