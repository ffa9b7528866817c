//! KVM's binary statistics (Documentation/virt/kvm/api.rst, 4.133): one self-describing file for
//! the VM and one per vCPU.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK, KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_MASK,
};
use log::debug;

use super::ext;
use super::vcpu::KvmVcpu;
use crate::observe::KvmCounters;

/// The counters of a VM and its vCPUs. Linux before 5.14 has none.
pub(crate) struct Counters {
    vm: Option<Group>,
    vcpus: Vec<Option<Group>>,
}

impl Counters {
    pub(crate) fn open(vm: &kvm_ioctls::VmFd, vcpus: &[KvmVcpu]) -> Counters {
        let group = |file: std::io::Result<File>| {
            let group = file.map(Group::new);
            group
                .map_err(|error| debug!("KVM's counters: {error}"))
                .unwrap_or(None)
        };
        Counters {
            vm: group(ext::counters(vm)),
            vcpus: vcpus.iter().map(|vcpu| group(vcpu.counters())).collect(),
        }
    }

    /// Reads all of them.
    pub(crate) fn read(&self) -> KvmCounters {
        let read = |group: &Option<Group>| group.as_ref().map(Group::read).unwrap_or_default();
        KvmCounters { vm: read(&self.vm), vcpus: self.vcpus.iter().map(read).collect() }
    }
}

/// One statistics file.
struct Group {
    file: File,
    /// Each counter's name and the offset of its value.
    counters: Vec<(String, u64)>,
}

/// Sizes in bytes of `struct kvm_stats_header` and of `struct kvm_stats_desc` without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// Upper bounds. The kernel's names have up to 48 bytes, and there are some dozens of counters.
const DESCRIPTORS_MAX: usize = 1 << 20;

impl Group {
    fn new(file: File) -> Option<Group> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let field = |index: usize| u32_at(&header, 4 * index);
        let (name_size, count) = (field(1)? as usize, field(2)? as usize);
        let (descriptors, data) = (field(4)?, field(5)?);
        let size = DESCRIPTOR + name_size;
        let mut bytes = vec![
            0;
            count
                .checked_mul(size)
                .filter(|&it| it <= DESCRIPTORS_MAX)?
        ];
        file.read_exact_at(&mut bytes, descriptors.into()).ok()?;
        let counters = bytes.chunks_exact(size);
        let counters = counters.filter_map(|descriptor| counter(descriptor, data));
        Some(Group { counters: counters.collect(), file })
    }

    fn read(&self) -> BTreeMap<String, u64> {
        let value = |(name, offset): &(String, u64)| {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, *offset).ok()?;
            Some((name.clone(), u64::from_ne_bytes(bytes)))
        };
        self.counters.iter().filter_map(value).collect()
    }
}

/// A descriptor's name and the offset of its value. Only cumulative scalars: histograms and peaks
/// are left out.
fn counter(descriptor: &[u8], data: u32) -> Option<(String, u64)> {
    let flags = u32_at(descriptor, 0)?;
    let size = u16::from_ne_bytes(descriptor.get(6..8)?.try_into().ok()?);
    let offset = u32_at(descriptor, 8)?;
    let name = descriptor.get(DESCRIPTOR..)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let counts = flags & KVM_STATS_TYPE_MASK == KVM_STATS_TYPE_CUMULATIVE
        && flags & KVM_STATS_UNIT_MASK != KVM_STATS_UNIT_BOOLEAN;
    let name = String::from_utf8_lossy(name).into_owned();
    (size == 1 && counts).then(|| (name, u64::from(data) + u64::from(offset)))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn descriptor(flags: u32, size: u16, offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = flags.to_ne_bytes().to_vec();
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(DESCRIPTOR + 16, 0);
        bytes
    }

    #[test]
    fn counts_are_read_and_the_rest_is_left_out() {
        let mut file = tempfile::tempfile().unwrap();
        for field in [0_u32, 16, 3, 0, 24, 24 + 3 * 32] {
            file.write_all(&field.to_ne_bytes()).unwrap();
        }
        for (flags, size, offset, name) in [
            (KVM_STATS_TYPE_CUMULATIVE, 1, 8, "exits"),
            (KVM_STATS_TYPE_MASK, 1, 0, "peak"),
            (KVM_STATS_TYPE_CUMULATIVE, 2, 0, "spread"),
        ] {
            file.write_all(&descriptor(flags, size, offset, name))
                .unwrap();
        }
        for value in [5_u64, 77] {
            file.write_all(&value.to_ne_bytes()).unwrap();
        }
        let counts = Group::new(file).unwrap().read();
        assert_eq!(counts, BTreeMap::from([("exits".to_owned(), 77)]));
    }

    #[test]
    fn a_file_that_is_cut_short_has_no_counts() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xff; 24]).unwrap();
        assert!(Group::new(file).is_none());
        assert!(Group::new(tempfile::tempfile().unwrap()).is_none());
    }
}
