//! A user-supplied device tree: completed, or rejected with the reason.

use std::io::Write;

use dtoolkit::Property;

use super::*;
use crate::layout::MIB;

/// A tree with a `/chosen` that has these bootargs, and another node.
fn tree(bootargs: Option<&str>) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let mut node = DeviceTreeNode::new("cpus").unwrap();
    node.add_property(DeviceTreeProperty::new("timebase-frequency", 10_000_000_u32).unwrap());
    if let Some(bootargs) = bootargs {
        let mut chosen = DeviceTreeNode::new("chosen").unwrap();
        chosen.add_property(DeviceTreeProperty::new("bootargs", bootargs).unwrap());
        chosen.add_property(DeviceTreeProperty::new("stdout-path", "/soc/serial").unwrap());
        tree.root.add_child(chosen);
    }
    tree.root.add_child(node);
    tree.to_dtb()
}

fn open(bytes: &[u8], cmdline: &str, initrd: Option<&Range<u64>>) -> Result<Vec<u8>, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    match Dtb::open(file.path(), cmdline, initrd) {
        Ok(dtb) => Ok(dtb.tree),
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            Err(error.to_string())
        }
    }
}

/// Returns a property of `/chosen`.
fn chosen(tree: &[u8], name: &str) -> Option<Vec<u8>> {
    let fdt = Fdt::new(tree).unwrap();
    let value = fdt.find_node("/chosen")?.property(name)?.value().to_vec();
    Some(value)
}

#[test]
fn without_command_line_and_initrd_it_stays_as_it_is() {
    let original = tree(Some("quiet"));
    let expected = with_slack(original.clone());
    assert!(expected.len() >= original.len() + (8 << 10));
    assert!(open(&original, "", None).unwrap() == expected);
    let padded = [&original[..], &[0; 100]].concat();
    assert!(open(&padded, "", None).unwrap() == expected);
}

#[test]
fn command_line_and_initrd_replace_what_it_says_and_nothing_else() {
    let initrd = 0x8f00_0000..0x8f12_3456;
    let completed = open(&tree(Some("old")), "console=hvc0", Some(&initrd)).unwrap();
    assert_eq!(chosen(&completed, "bootargs").unwrap(), b"console=hvc0\0");
    assert_eq!(
        chosen(&completed, "linux,initrd-start").unwrap(),
        0x8f00_0000_u64.to_be_bytes()
    );
    assert_eq!(
        chosen(&completed, "linux,initrd-end").unwrap(),
        0x8f12_3456_u64.to_be_bytes()
    );
    assert_eq!(chosen(&completed, "stdout-path").unwrap(), b"/soc/serial\0");
    let fdt = Fdt::new(&completed).unwrap();
    assert!(
        fdt.find_node("/cpus")
            .unwrap()
            .property("timebase-frequency")
            .is_some()
    );

    let only_initrd = open(&tree(Some("old")), "", Some(&initrd)).unwrap();
    assert_eq!(chosen(&only_initrd, "bootargs").unwrap(), b"old\0");
}

#[test]
fn a_tree_without_chosen_gets_one() {
    let completed = open(&tree(None), "quiet", None).unwrap();
    assert_eq!(chosen(&completed, "bootargs").unwrap(), b"quiet\0");
    assert_eq!(chosen(&completed, "linux,initrd-start"), None);
}

#[test]
fn every_cut_is_refused_as_such() {
    let whole = tree(Some("quiet"));
    for length in 4..whole.len() {
        let error = open(&whole[..length], "", None).unwrap_err();
        assert!(error.contains("it is truncated"), "{length}: {error}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let refused = |at: usize, value: u32, part: &str| {
        let mut bytes = tree(Some("quiet"));
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        let error = open(&bytes, "quiet", None).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(0, 0xedfe_0dd0, "does not begin with d0 0d fe ed");
    refused(4, 0, "cannot be read");
    refused(4, 2 << 20, "it has 2097152 bytes, at most 1M fit");
    refused(4, u32::MAX, "at most 1M");
    refused(8, 0xffff_fff0, "cannot be read");
    refused(12, 0xffff_fff0, "cannot be read");
    refused(16, 0xffff_fff0, "cannot be read");
    refused(24, 99, "cannot be read");
    refused(32, u32::MAX, "cannot be read");
    refused(36, u32::MAX, "cannot be read");
}

#[test]
fn damaged_trees_never_panic() {
    let original = tree(Some("quiet"));
    let mut readable = 0;
    for at in 0..original.len() {
        for value in [0, 1, 2, 3, 9, 0x7f, 0x80, 0xff] {
            let mut bytes = original.clone();
            bytes[at] = value;
            readable += usize::from(open(&bytes, "quiet", Some(&(1..2))).is_ok());
        }
    }
    assert!(readable > 0, "the damage is too wild to test anything");
}

#[test]
fn a_tree_too_deep_to_walk_is_refused() {
    let mut node = DeviceTreeNode::new("leaf").unwrap();
    for _ in 0..100 {
        let mut parent = DeviceTreeNode::new("node").unwrap();
        parent.add_child(node);
        node = parent;
    }
    let mut deep = DeviceTree::new();
    deep.root.add_child(node);
    let error = open(&deep.to_dtb(), "", None).unwrap_err();
    assert!(error.contains("nested more than 64 deep"), "{error}");
}

#[test]
fn a_tree_that_grows_beyond_its_room_is_refused() {
    let mut full = DeviceTree::new();
    let big = vec![0_u8; usize::try_from(MIB).unwrap() - 200];
    full.root.add_child(DeviceTreeNode::new("chosen").unwrap());
    full.root
        .add_property(DeviceTreeProperty::new("big", big).unwrap());
    let full = full.to_dtb();
    assert!(open(&full, "", None).is_ok());
    let error = open(&full, &"x".repeat(500), None).unwrap_err();
    assert!(error.contains("at most 1M fit"), "{error}");
}

#[test]
fn source_text_is_told_from_a_dtb() {
    let error = open(b"/dts-v1/;\n/ { };\n", "", None).unwrap_err();
    assert!(error.contains("dtc -O dtb"), "{error}");
}

#[test]
fn a_node_that_is_only_nearly_chosen_is_not_taken_for_it() {
    let mut tree = DeviceTree::new();
    let node = DeviceTreeNode::new("chosen@0").unwrap();
    tree.root.add_child(node);
    let tree = open(&tree.to_dtb(), "quiet", None).unwrap();
    let fdt = Fdt::new(&tree).unwrap();
    let mut nodes = fdt.root().children();
    let chosen = nodes.find(|node| node.name() == "chosen").unwrap();
    assert_eq!(chosen.property("bootargs").unwrap().value(), b"quiet\0");
}
