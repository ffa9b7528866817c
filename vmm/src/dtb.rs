//! A user-supplied device tree (`--dtb`), and writing the generated one to a file (`--dump-dtb`).
//!
//! As under QEMU, the tree is used as is, except for properties of `/chosen` that only this run
//! knows: the command line and the location of the initrd, each if there is one. Whether the rest
//! matches the machine is the user's responsibility.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dtoolkit::error::ModelError;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};

use crate::error::Error;
use crate::fdt::with_slack;
use crate::host::files::{self, FileError};
use crate::layout::FDT_MAX_SIZE;
use crate::size;

/// The first bytes of a flattened device tree (Devicetree Specification v0.4 § 5.2).
const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
/// Maximum nesting of nodes. Real trees have about 8 levels; the tree is walked recursively.
const MAX_DEPTH: u32 = 64;

/// A user-supplied device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dtb {
    /// The path as given by the user.
    pub path: PathBuf,
    /// The tree for the guest: a DTB of at most [`FDT_MAX_SIZE`] bytes.
    pub tree: Vec<u8>,
}

impl Dtb {
    /// Reads and checks a DTB, and adds the command line and the initrd's guest physical addresses
    /// to `/chosen`.
    pub fn open(path: &Path, cmdline: &str, initrd: Option<&Range<u64>>) -> Result<Dtb, Error> {
        let (file, length) = files::open_input("device tree", path)?;
        let mut bytes = Vec::new();
        // A longer tree is rejected by its header, so do not read all of it.
        file.take(length.min(FDT_MAX_SIZE))
            .read_to_end(&mut bytes)
            .map_err(FileError::read("device tree", path))?;
        match complete(&bytes, length, cmdline, initrd) {
            Ok(tree) => Ok(Dtb { path: path.into(), tree: with_slack(tree) }),
            Err(problem) => Err(FileError::content("device tree", path, problem)),
        }
    }
}

/// Writes the guest's device tree to a file.
pub fn dump(path: &Path, tree: &[u8]) -> Result<(), Error> {
    fs::write(path, tree).map_err(FileError::write("the device tree to", path))
}

/// Completes the tree at the start of a file of `length` bytes, or returns what is wrong with it.
fn complete(
    bytes: &[u8],
    length: u64,
    cmdline: &str,
    initrd: Option<&Range<u64>>,
) -> Result<Vec<u8>, String> {
    let tree = exact(bytes, length)?;
    let fdt = Fdt::new(tree).map_err(|error| format!("it cannot be read: {error}"))?;
    if !shallow(&fdt.root(), MAX_DEPTH) {
        return Err(format!("its nodes are nested more than {MAX_DEPTH} deep"));
    }
    if cmdline.is_empty() && initrd.is_none() {
        return Ok(tree.to_vec());
    }
    let mut tree = DeviceTree::from_fdt(&fdt);
    choose(&mut tree, cmdline, initrd).map_err(|error| error.to_string())?;
    let tree = tree.to_dtb();
    match tree.len() as u64 {
        0..=FDT_MAX_SIZE => Ok(tree),
        size => Err(format!(
            "with --cmdline and --initrd it has {size} bytes, at most {} fit",
            size::show(FDT_MAX_SIZE)
        )),
    }
}

/// Returns the bytes that the header counts, without trailing padding.
fn exact(bytes: &[u8], length: u64) -> Result<&[u8], String> {
    if !bytes.starts_with(&MAGIC) {
        let what = if bytes.starts_with(b"/dts-v1/") {
            "it is source text, expected a DTB (dtc -O dtb makes one)"
        } else {
            "it does not begin with d0 0d fe ed, expected a DTB"
        };
        return Err(what.into());
    }
    let Some([_, _, _, _, a, b, c, d]) = bytes.first_chunk() else {
        return Err(format!("it is truncated: {length} bytes hold no header"));
    };
    let total = u64::from(u32::from_be_bytes([*a, *b, *c, *d]));
    if total > FDT_MAX_SIZE {
        let limit = size::show(FDT_MAX_SIZE);
        return Err(format!("it has {total} bytes, at most {limit} fit"));
    }
    usize::try_from(total)
        .ok()
        .and_then(|total| bytes.get(..total))
        .ok_or_else(|| {
            format!("it is truncated: its header says {total} bytes, the file has {length}")
        })
}

/// Whether nodes are nested at most `depth` levels deep.
fn shallow(node: &FdtNode, depth: u32) -> bool {
    depth > 0 && node.children().all(|child| shallow(&child, depth - 1))
}

/// Sets the properties of `/chosen` that only this run knows.
fn choose(
    tree: &mut DeviceTree,
    cmdline: &str,
    initrd: Option<&Range<u64>>,
) -> Result<(), ModelError> {
    // Match the exact name: `child` would also return a `chosen@0`.
    if tree.root.child_mut("chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new("chosen")?);
    }
    if !cmdline.is_empty() {
        set(tree, "bootargs", cmdline)?;
    }
    if let Some(initrd) = initrd {
        set(tree, "linux,initrd-start", initrd.start)?;
        set(tree, "linux,initrd-end", initrd.end)?;
    }
    Ok(())
}

/// Sets a property of `/chosen`, which must exist.
fn set(tree: &mut DeviceTree, name: &str, value: impl ToPropertyValue) -> Result<(), ModelError> {
    let Some(chosen) = tree.root.child_mut("chosen") else {
        return Ok(());
    };
    match chosen.property_mut(name) {
        Some(property) => property.set_value(value),
        None => chosen.add_property(DeviceTreeProperty::new(name, value)?),
    }
    Ok(())
}

#[cfg(test)]
#[path = "dtb_test.rs"]
mod tests;
