//! The device tree, read back by an independent parser, and checked with `dtc` if it is installed.

use std::io::Write;
use std::process::{Command, Stdio};

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

use super::*;
use crate::layout::MIB;

fn hart() -> Hart {
    Hart {
        isa: "rv64imafdc_zicbom_zicboz_zicsr_sstc".into(),
        extensions: [
            "i", "m", "a", "f", "d", "c", "zicbom", "zicboz", "zicsr", "sstc",
        ]
        .map(String::from)
        .into(),
        mmu_type: "riscv,sv57".into(),
        cbom_block: Some(64),
        cboz_block: Some(128),
    }
}

fn dtb(harts: usize, virtio_slots: usize) -> Vec<u8> {
    dtb_with(Irqchip::Plic, harts, virtio_slots)
}

fn dtb_with(irqchip: Irqchip, harts: usize, virtio_slots: usize) -> Vec<u8> {
    build(&Board {
        cmdline: "console=hvc0 x=\"a b\"",
        memory: 256 * MIB,
        harts: &vec![hart(); harts],
        timebase: 10_000_000,
        initrd: Some(0x8f00_0000..0x8f12_3456),
        irqchip,
        virtio_slots,
        seed: [7; 32],
    })
    .unwrap()
}

/// Returns the raw bytes of a property.
fn bytes(dtb: &[u8], path: &str, name: &str) -> Vec<u8> {
    let fdt = Fdt::new(dtb).unwrap();
    let node = fdt.find_node(path).unwrap_or_else(|| panic!("no {path}"));
    let property = node
        .property(name)
        .unwrap_or_else(|| panic!("no {path}:{name}"));
    property.value().to_vec()
}

fn cells(dtb: &[u8], path: &str, name: &str) -> Vec<u32> {
    let bytes = bytes(dtb, path, name);
    bytes
        .chunks_exact(4)
        .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
        .collect()
}

fn text(dtb: &[u8], path: &str, name: &str) -> String {
    String::from_utf8(bytes(dtb, path, name)).unwrap()
}

#[test]
fn chosen_carries_the_command_line_unchanged() {
    let dtb = dtb(1, 1);
    assert_eq!(
        text(&dtb, "/chosen", "bootargs"),
        "console=hvc0 x=\"a b\"\0"
    );
    assert_eq!(
        cells(&dtb, "/chosen", "linux,initrd-start"),
        [0, 0x8f00_0000]
    );
    assert_eq!(cells(&dtb, "/chosen", "linux,initrd-end"), [0, 0x8f12_3456]);
    assert_eq!(bytes(&dtb, "/chosen", "rng-seed"), [7; 32]);
}

#[test]
fn harts_are_described_in_both_ways() {
    let dtb = dtb(11, 1);
    assert_eq!(cells(&dtb, "/cpus", "timebase-frequency"), [10_000_000]);
    assert_eq!(cells(&dtb, "/cpus/cpu@a", "reg"), [10]);
    assert_eq!(
        text(&dtb, "/cpus/cpu@0", "riscv,isa"),
        "rv64imafdc_zicbom_zicboz_zicsr_sstc\0"
    );
    assert_eq!(text(&dtb, "/cpus/cpu@0", "riscv,isa-base"), "rv64i\0");
    assert_eq!(
        text(&dtb, "/cpus/cpu@0", "riscv,isa-extensions"),
        "i\0m\0a\0f\0d\0c\0zicbom\0zicboz\0zicsr\0sstc\0"
    );
    assert_eq!(text(&dtb, "/cpus/cpu@0", "mmu-type"), "riscv,sv57\0");
    assert_eq!(cells(&dtb, "/cpus/cpu@0", "riscv,cbom-block-size"), [64]);
    assert_eq!(cells(&dtb, "/cpus/cpu@0", "riscv,cboz-block-size"), [128]);
}

#[test]
fn the_s_context_of_hart_h_is_2h_plus_1() {
    let dtb = dtb(2, 1);
    let own = |hart| {
        cells(
            &dtb,
            &format!("/cpus/cpu@{hart}/interrupt-controller"),
            "phandle",
        )[0]
    };
    let expected = [own(0), u32::MAX, own(0), 9, own(1), u32::MAX, own(1), 9];
    assert_eq!(
        cells(&dtb, "/soc/plic@c000000", "interrupts-extended"),
        expected
    );
    assert_eq!(
        cells(&dtb, "/soc/plic@c000000", "reg"),
        [0, 0x0c00_0000, 0, 0x60_0000]
    );
    assert_eq!(cells(&dtb, "/soc/plic@c000000", "riscv,ndev"), [95]);
}

#[test]
fn with_an_aia_wires_go_to_the_aplic_and_messages_to_the_imsics() {
    let dtb = dtb_with(Irqchip::Aia, 2, 1);
    let own = |hart| {
        let path = format!("/cpus/cpu@{hart}/interrupt-controller");
        cells(&dtb, &path, "phandle")[0]
    };
    let (imsics, aplic) = (
        "/soc/interrupt-controller@28000000",
        "/soc/interrupt-controller@d000000",
    );
    assert_eq!(cells(&dtb, imsics, "reg"), [0, 0x2800_0000, 0, 0x2000]);
    assert_eq!(
        cells(&dtb, imsics, "interrupts-extended"),
        [own(0), 9, own(1), 9]
    );
    assert_eq!(cells(&dtb, imsics, "riscv,num-ids"), [255]);
    assert_eq!(
        cells(&dtb, aplic, "msi-parent"),
        cells(&dtb, imsics, "phandle")
    );
    assert_eq!(cells(&dtb, aplic, "riscv,num-sources"), [95]);
    let console = "/soc/virtio_mmio@10001000";
    assert_eq!(
        cells(&dtb, console, "interrupt-parent"),
        cells(&dtb, aplic, "phandle")
    );
    assert_eq!(cells(&dtb, console, "interrupts"), [1, 1], "edge");
    for (node, source) in [("serial@10000000", 10), ("rtc@101000", 11)] {
        let interrupts = cells(&dtb, &format!("/soc/{node}"), "interrupts");
        assert_eq!(
            interrupts,
            [source, 4],
            "{node}: its line stays high from cause to cause"
        );
    }
    assert!(
        Fdt::new(&dtb)
            .unwrap()
            .find_node("/soc/plic@c000000")
            .is_none()
    );
}

#[test]
fn only_slots_with_a_device_have_a_node() {
    let dtb = dtb(1, 3);
    assert_eq!(
        cells(&dtb, "/soc/virtio_mmio@10003000", "reg"),
        [0, 0x1000_3000, 0, 0x1000]
    );
    assert_eq!(cells(&dtb, "/soc/virtio_mmio@10003000", "interrupts"), [3]);
    let plic = cells(&dtb, "/soc/plic@c000000", "phandle");
    assert_eq!(
        cells(&dtb, "/soc/virtio_mmio@10003000", "interrupt-parent"),
        plic
    );
    assert!(
        Fdt::new(&dtb)
            .unwrap()
            .find_node("/soc/virtio_mmio@10004000")
            .is_none()
    );
}

#[test]
fn a_boot_loader_finds_room_to_edit_the_tree_in_place() {
    let room = |dtb: &[u8]| {
        let field = |at: usize| u32::from_be_bytes(dtb[at..at + 4].try_into().unwrap()) as usize;
        let (total, strings, strings_size) = (field(4), field(12), field(32));
        assert_eq!(total, dtb.len());
        total - (strings + strings_size)
    };
    let dtb = dtb(2, 3);
    assert!(room(&dtb) >= SLACK, "{}", room(&dtb));
    let limit = usize::try_from(FDT_MAX_SIZE).unwrap();
    assert_eq!(with_slack(vec![0; limit - 5]).len(), limit);
    assert_eq!(with_slack(vec![0; limit]).len(), limit);
}

#[test]
fn all_harts_with_long_isa_strings_fit_the_room() {
    let mut hart = hart();
    hart.extensions = (0..100).map(|number| format!("zext{number}")).collect();
    hart.isa = format!("rv64imafdc_{}", hart.extensions.join("_"));
    let harts = vec![hart; 512];
    let (cmdline, initrd, seed) = ("", None, [0; 32]);
    let board = Board {
        cmdline,
        memory: MIB,
        harts: &harts,
        timebase: 1,
        initrd,
        irqchip: Irqchip::Plic,
        virtio_slots: 8,
        seed,
    };
    assert!(build(&board).unwrap().len() as u64 <= FDT_MAX_SIZE);
    let isa = "x".repeat(4096);
    let harts = vec![Hart { isa, ..harts[0].clone() }; 512];
    assert!(matches!(
        build(&Board { harts: &harts, ..board }),
        Err(Error::Fdt(FdtError::Size { .. }))
    ));
}

#[test]
fn dtc_has_nothing_to_warn_about() {
    for irqchip in [Irqchip::Plic, Irqchip::Aia] {
        dtc(&dtb_with(irqchip, 2, 8));
    }
}

fn dtc(dtb: &[u8]) {
    let dtc = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut dtc) = dtc else {
        eprintln!("dtc is not installed: skipped");
        return;
    };
    dtc.stdin.take().unwrap().write_all(dtb).unwrap();
    let output = dtc.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_platform_is_described_as_qemus() {
    let dtb = dtb(1, 1);
    let reg = |path: &str| cells(&dtb, path, "reg");
    assert_eq!(reg("/soc/serial@10000000"), [0, 0x1000_0000, 0, 0x100]);
    assert_eq!(reg("/soc/rtc@101000"), [0, 0x10_1000, 0, 0x1000]);
    assert_eq!(reg("/soc/test@100000"), [0, 0x10_0000, 0, 0x1000]);
    assert_eq!(cells(&dtb, "/soc/serial@10000000", "interrupts"), [10]);
    assert_eq!(cells(&dtb, "/soc/rtc@101000", "interrupts"), [11]);
    let clock = cells(&dtb, "/soc/serial@10000000", "clock-frequency");
    assert_eq!(clock, [3_686_400]);
    let names = text(&dtb, "/soc/test@100000", "compatible");
    assert_eq!(names, "sifive,test1\0sifive,test0\0syscon\0");
    let finisher = cells(&dtb, "/soc/test@100000", "phandle");
    for (path, value) in [("/poweroff", 0x5555), ("/reboot", 0x7777)] {
        assert_eq!(cells(&dtb, path, "regmap"), finisher);
        assert_eq!(cells(&dtb, path, "value"), [value]);
    }
    let path = text(&dtb, "/chosen", "stdout-path");
    assert_eq!(path, "/soc/serial@10000000\0");
}
