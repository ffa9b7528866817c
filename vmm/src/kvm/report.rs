//! What this host's KVM offers, for `hartvisor check`.

use std::io;

use kvm_bindings::{
    KVM_CAP_VM_GPA_BITS, kvm_create_device, kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::ext::{self, SBI_EXTENSIONS, register};
use super::vcpu::KvmVcpu;
use crate::error::Error;

/// A line for each fact: a name and what is to be said of it.
pub(super) fn report(kvm: &Kvm) -> Result<Vec<(&'static str, String)>, Error> {
    let vm = kvm.create_vm().map_err(super::failed("create a VM"))?;
    let vcpu = KvmVcpu::new(&vm, 0)?;
    let hart = vcpu.describe();
    let timebase = vcpu.timebase()?;
    Ok(vec![
        ("vCPUs", format!("up to {}", kvm.get_max_vcpus())),
        ("guest physical address", gpa_bits(&vm)),
        ("paging", hart.mmu_type),
        ("ISA", hart.isa),
        ("timebase", format!("{timebase} Hz")),
        ("SBI", sbi(&vcpu)),
        ("SBI debug console", debug_console(&vcpu)),
        ("in-kernel AIA", aia(&vm)),
        (
            "ioeventfd",
            capability(&vm, Cap::Ioeventfd, "notifications exit to user space"),
        ),
        (
            "read-only memory",
            capability(&vm, Cap::ReadonlyMem, "not used"),
        ),
    ])
}

fn gpa_bits(vm: &VmFd) -> String {
    match vm.check_extension_raw(KVM_CAP_VM_GPA_BITS.into()) {
        // RISC-V has had it from the beginning of its KVM, in 5.16.
        bits @ 1.. => format!("{bits} bits"),
        _ => "unknown".to_owned(),
    }
}

fn sbi(vcpu: &KvmVcpu) -> String {
    let has = |number| vcpu.get(register::sbi_extension(number));
    let names = SBI_EXTENSIONS
        .into_iter()
        .zip(0..)
        .filter_map(|(name, number)| match has(number)? {
            0 => Some(format!("{name} (off)")),
            _ => Some(name.to_owned()),
        });
    names.collect::<Vec<_>>().join(" ")
}

fn debug_console(vcpu: &KvmVcpu) -> String {
    let known = vcpu.get(register::sbi_extension(ext::SBI_DBCN));
    match known {
        Some(_) => "yes",
        None => "no: KVM has it from Linux 6.7 on; the legacy console serves instead",
    }
    .to_owned()
}

fn aia(vm: &VmFd) -> String {
    // Really created, in a VM that never runs: with KVM_CREATE_DEVICE_TEST kvm-ioctls would own, and close, descriptor 0.
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
        fd: 0,
        flags: 0,
    };
    match vm.create_device(&mut device).map_err(io::Error::from) {
        Ok(_) => "yes (not used yet: guests get a PLIC)".to_owned(),
        Err(_) => "no: it takes Linux 6.5 and a CPU with Ssaia; guests get a PLIC".to_owned(),
    }
}

fn capability(vm: &VmFd, cap: Cap, without: &str) -> String {
    match vm.check_extension(cap) {
        true => "yes".to_owned(),
        false => format!("no: {without}"),
    }
}
