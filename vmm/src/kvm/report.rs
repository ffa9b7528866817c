//! What this host's KVM offers, for `hartvisor check`.

use kvm_bindings::KVM_CAP_VM_GPA_BITS;
use kvm_ioctls::{Cap, Kvm, VmFd};
use rustix::system::uname;

use super::aia::Aia;
use super::cpu;
use super::error::KvmError;
use super::ext::{SBI_DBCN, register};
use super::vcpu::KvmVcpu;
use crate::error::Error;
use crate::host::hugepages;
use crate::isa::{ISA_EXTENSIONS, SBI_EXTENSIONS};

/// One line per fact: its name and value, and advice where something is missing.
pub(super) fn report(kvm: &Kvm) -> Result<Vec<(&'static str, String)>, Error> {
    // A VM that never runs, so everything can be tried on it.
    let vm = kvm.create_vm().map_err(KvmError::call("create a VM"))?;
    let vcpu = KvmVcpu::new(&vm, 0)?;
    let timebase = vcpu.timebase()?;
    let (off, hidden) = switchable(&vcpu);
    Ok(vec![
        ("vCPUs", format!("up to {}", kvm.get_max_vcpus())),
        ("guest physical address", gpa_bits(&vm)),
        ("paging", cpu::mmu_type(&vcpu).to_owned()),
        ("timebase", format!("{timebase} Hz")),
        ("machine ids", machine_ids(&vcpu)),
        ("ISA, --cpu can take away", off.join(" ")),
        ("ISA, --cpu can only hide", hidden.join(" ")),
        ("SBI", sbi(&vcpu)),
        ("SBI debug console", debug_console(&vcpu)),
        ("in-kernel AIA", aia(&vm)),
        ("huge pages", huge_pages()),
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
        bits @ 1.. => format!("{bits} bits"),
        _ => "unknown".to_owned(),
    }
}

fn machine_ids(vcpu: &KvmVcpu) -> String {
    let id = |register| {
        vcpu.get(register)
            .map_or("?".to_owned(), |id| format!("{id:#x}"))
    };
    let (vendor, arch, imp) = (register::MVENDORID, register::MARCHID, register::MIMPID);
    format!(
        "vendor {}, architecture {}, implementation {}",
        id(vendor),
        id(arch),
        id(imp)
    )
}

/// The extensions that KVM can disable for a guest, and those that it cannot.
fn switchable(vcpu: &KvmVcpu) -> (Vec<&'static str>, Vec<&'static str>) {
    cpu::extensions(vcpu).partition(|name| {
        let number = ISA_EXTENSIONS
            .iter()
            .zip(0..)
            .find(|(known, _)| *known == name);
        number.is_some_and(|(_, number)| vcpu.set(register::isa_extension(number), 0).is_ok())
    })
}

fn sbi(vcpu: &KvmVcpu) -> String {
    let has = |number| vcpu.get(register::sbi_extension(number));
    let names = SBI_EXTENSIONS.into_iter().zip(0..);
    let names = names.filter_map(|(name, number)| match has(number)? {
        // KVM has the debug console off by default, every guest here has it on.
        0 if number != SBI_DBCN => Some(format!("{name} (off)")),
        _ => Some(name.to_owned()),
    });
    names.collect::<Vec<_>>().join(" ")
}

fn debug_console(vcpu: &KvmVcpu) -> String {
    match vcpu.get(register::sbi_extension(SBI_DBCN)) {
        Some(_) => "yes",
        None => "no: KVM has it from Linux 6.7 on; the legacy console is used instead",
    }
    .to_owned()
}

/// The first Linux version in which an interrupt in a guest interrupt file always wakes its hart:
/// commit 4cec89db80ba and its follow-ups.
const WAKES: (u32, u32) = (6, 18);

/// What can happen on older kernels.
pub(super) const LOST_WAKEUPS: &str =
    "before Linux 6.18 an idle hart may stay asleep with an interrupt pending";

/// Whether an interrupt of this AIA may fail to wake an idle hart.
pub(super) fn may_lose_wakeups(aia: &Aia) -> bool {
    aia.has_files() && kernel().is_some_and(|version| version < WAKES)
}

/// Tries the whole set-up for one hart.
fn aia(vm: &VmFd) -> String {
    match Aia::new(vm, 1) {
        Ok(aia) if may_lose_wakeups(&aia) => format!(
            "yes, {}; {LOST_WAKEUPS} (--irqchip plic avoids that)",
            aia.mode()
        ),
        Ok(aia) => format!("yes, {}", aia.mode()),
        Err(error) => format!(
            "no, cannot {}: {}; guests get a PLIC",
            error.step, error.source
        ),
    }
}

/// The host kernel's major and minor version.
fn kernel() -> Option<(u32, u32)> {
    let name = uname();
    let release = name.release().to_str().ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn huge_pages() -> String {
    match hugepages::free() {
        None => "no: this kernel has no huge pages of 2M".to_owned(),
        Some(0) => "none free (as root: echo N > /proc/sys/vm/nr_hugepages)".to_owned(),
        Some(free) => format!("{free} of 2M free"),
    }
}

fn capability(vm: &VmFd, cap: Cap, without: &str) -> String {
    match vm.check_extension(cap) {
        true => "yes".to_owned(),
        false => format!("no: {without}"),
    }
}
