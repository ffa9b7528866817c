//! A device tree of the user (`--dtb`): any bytes, mostly a changed tree of a real machine.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use vmm::dtb::Dtb;
use vmm::layout::FDT_MAX_SIZE;

use crate::file::{new_file, path};

/// Trees of QEMU and a short one, in which changes are more frequent, each with its byte of flags.
pub fn seeds() -> Vec<Vec<u8>> {
    let trees = [
        small(),
        include_bytes!("../../guest/tests/data/qemu-virt-plic.dtb").to_vec(),
        include_bytes!("../../guest/tests/data/qemu-virt-aplic.dtb").to_vec(),
        include_bytes!("../../guest/tests/data/qemu-virt-aplic-imsic.dtb").to_vec(),
    ];
    let trees = trees.iter();
    let seeds =
        trees.flat_map(|tree| [0, 1, 2, 3, 7].map(|how| [&[how], tree.as_slice()].concat()));
    seeds.collect()
}

fn small() -> Vec<u8> {
    let node = |name: &str| DeviceTreeNode::new(name).expect("a name");
    let mut chosen = node("chosen");
    let bootargs = DeviceTreeProperty::new("bootargs", "quiet");
    chosen.add_property(bootargs.expect("a name"));
    let mut cpus = node("cpus");
    cpus.add_child(node("cpu@0"));
    let mut tree = DeviceTree::new();
    tree.root.add_child(chosen);
    tree.root.add_child(cpus);
    tree.to_dtb()
}

/// Runs a case: a byte of flags, then the file. Panics if the result is not as requested.
pub fn run(case: &[u8]) {
    let Some((how, tree)) = case.split_first() else {
        return;
    };
    let flag = |bit: u8| how & bit != 0;
    let mut tree = tree.to_vec();
    if flag(4) && tree.len() >= 8 {
        // The first part is valid: check the rest.
        tree[..4].copy_from_slice(&[0xd0, 0x0d, 0xfe, 0xed]);
        let len = tree.len() as u32;
        tree[4..8].copy_from_slice(&len.to_be_bytes());
    }
    let cmdline = if flag(1) { "console=hvc0 quiet" } else { "" };
    let initrd = flag(2).then_some(0x8800_0000..0x8840_0000);
    let file = new_file(&tree);
    let Ok(dtb) = Dtb::open(&path(&file), cmdline, initrd.as_ref()) else {
        return;
    };
    assert!(dtb.tree.len() as u64 <= FDT_MAX_SIZE);
    if cmdline.is_empty() && initrd.is_none() {
        // Unchanged except for its length: a boot loader needs space to edit it in place.
        let len = u32::from_be_bytes([tree[4], tree[5], tree[6], tree[7]]) as usize;
        assert_eq!(dtb.tree[..4], tree[..4]);
        assert_eq!(dtb.tree[8..len], tree[8..len]);
        assert!(dtb.tree[len..].iter().all(|byte| *byte == 0));
        return;
    }
    let fdt = Fdt::new(&dtb.tree).expect("what we write can be read");
    let read = DeviceTree::from_fdt(&fdt);
    let chosen = read.root.children().find(|child| child.name() == "chosen");
    let chosen = chosen.expect("/chosen");
    let property = |name| chosen.property(name).map(|it| it.value().to_vec());
    if !cmdline.is_empty() {
        assert_eq!(property("bootargs"), Some(b"console=hvc0 quiet\0".to_vec()));
    }
    if let Some(initrd) = initrd {
        let word = |value: u64| Some(value.to_be_bytes().to_vec());
        assert_eq!(property("linux,initrd-start"), word(initrd.start));
        assert_eq!(property("linux,initrd-end"), word(initrd.end));
    }
}
