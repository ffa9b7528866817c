//! The guest's ISA and SBI extensions: set in KVM before the vCPUs run, described in the device
//! tree.

use log::{debug, warn};

use super::KvmError;
use super::ext::{self, register};
use super::vcpu::KvmVcpu;
use crate::error::Error;
use crate::fdt::{Hart, Irqchip};
use crate::isa::{ISA_EXTENSIONS, SBI_EXTENSIONS, Switch};
use crate::machine::Machine;

/// Configures the vCPUs. They must not have run yet.
///
/// # Errors
/// An extension was asked for that this KVM does not have.
pub(crate) fn configure(vcpus: &[KvmVcpu], machine: &Machine) -> Result<(), Error> {
    for vcpu in vcpus {
        // KVM has the debug console since Linux 6.7, disabled by default. A user may want it
        // disabled.
        if vcpu.set(register::sbi_extension(ext::SBI_DBCN), 1).is_err() {
            debug!("this KVM has no SBI debug console (DBCN)");
        }
        // Without it AIA CSR accesses trap on hosts with Smstateen. Other hosts lack the register.
        if vcpu.get(register::SSTATEEN0).is_some() {
            let _ = vcpu.set(register::SSTATEEN0, u64::MAX);
        }
        for switch in &machine.config.isa {
            let id = register::isa_extension(switch.number);
            apply(vcpu, "--cpu", switch, id, || extensions(vcpu).collect())?;
        }
        for switch in &machine.config.sbi {
            let id = register::sbi_extension(switch.number);
            apply(vcpu, "--sbi", switch, id, || sbi_extensions(vcpu).collect())?;
        }
    }
    Ok(())
}

/// Enables or disables one extension. `has` lists those that may be enabled.
fn apply(
    vcpu: &KvmVcpu,
    option: &'static str,
    switch: &Switch,
    id: u64,
    has: impl FnOnce() -> Vec<&'static str>,
) -> Result<(), Error> {
    let Switch { name, on, .. } = *switch;
    if vcpu.get(id).unwrap_or(0) == u64::from(on) {
        return Ok(());
    }
    match (vcpu.set(id, on.into()), on) {
        (Ok(()), _) => {}
        (Err(_), true) => {
            return Err(KvmError::Extension { option, name, has: has().join(" ") }.into());
        }
        (Err(error), false) => {
            warn!(
                "{option} {name}=off: KVM cannot disable it, it is only hidden from the device tree ({error})"
            );
        }
    }
    Ok(())
}

/// The hart's properties for the device tree.
pub(crate) fn describe(vcpu: &KvmVcpu, machine: &Machine, irqchip: Irqchip) -> Hart {
    let hidden = |name: &str| {
        let off = machine
            .config
            .isa
            .iter()
            .any(|switch| switch.name == name && !switch.on);
        // Its CSRs are useless without an IMSIC.
        off || (name == "ssaia" && irqchip != Irqchip::Aia)
    };
    let extensions: Vec<_> = extensions(vcpu).filter(|name| !hidden(name)).collect();
    let block = |register, name| {
        let size = vcpu.get(register).filter(|_| extensions.contains(&name));
        size.and_then(|size| u32::try_from(size).ok())
    };
    Hart {
        isa: isa_string(&extensions),
        mmu_type: mmu_type(vcpu).to_owned(),
        cbom_block: block(register::ZICBOM_BLOCK_SIZE, "zicbom"),
        cboz_block: block(register::ZICBOZ_BLOCK_SIZE, "zicboz"),
        extensions: extensions.into_iter().map(str::to_owned).collect(),
    }
}

/// The largest paging mode, from satp.MODE (privileged specification, § Supervisor Address
/// Translation and Protection). Every host has Sv39.
pub(crate) fn mmu_type(vcpu: &KvmVcpu) -> &'static str {
    match vcpu.get(register::SATP_MODE) {
        Some(10) => "riscv,sv57",
        Some(9) => "riscv,sv48",
        _ => "riscv,sv39",
    }
}

/// The guest's ISA extensions, as far as this program knows their names.
pub(crate) fn extensions(vcpu: &KvmVcpu) -> impl Iterator<Item = &'static str> {
    // Since Linux 6.6 one register shows 64 of them. Each one's own register is a system call.
    let words = [0, 1].map(|word| vcpu.get(register::isa_extensions(word)));
    let has = move |number: u64| {
        let word = usize::try_from(number / 64).ok();
        match word.and_then(|word| words.get(word).copied().flatten()) {
            Some(word) => word >> (number % 64) & 1 == 1,
            None => vcpu.get(register::isa_extension(number)) == Some(1),
        }
    };
    let numbered = ISA_EXTENSIONS.into_iter().zip(0..);
    numbered.filter_map(move |(name, number)| has(number).then_some(name))
}

/// The SBI extensions that KVM can give the guest, on or off.
pub(crate) fn sbi_extensions(vcpu: &KvmVcpu) -> impl Iterator<Item = &'static str> {
    let has = |number| vcpu.get(register::sbi_extension(number)).is_some();
    let numbered = SBI_EXTENSIONS.into_iter().zip(0..);
    numbered.filter_map(move |(name, number)| has(number).then_some(name))
}

/// `rv64` and the single letters in their canonical order, then the others.
fn isa_string(extensions: &[&str]) -> String {
    let mut isa = "rv64".to_owned();
    let letters = ["i", "m", "a", "f", "d", "q", "c", "b", "v", "h"];
    isa.extend(
        letters
            .into_iter()
            .filter(|letter| extensions.contains(letter)),
    );
    for name in extensions.iter().filter(|name| name.len() > 1) {
        isa.push('_');
        isa.push_str(name);
    }
    isa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_isa_string_has_its_letters_in_canonical_order() {
        let extensions = ["a", "c", "d", "f", "i", "m", "sstc", "zba"];
        assert_eq!(isa_string(&extensions), "rv64imafdc_sstc_zba");
    }

    #[cfg(feature = "e2e")]
    #[test]
    fn the_registers_of_64_extensions_show_what_each_ones_own_register_does() {
        let kvm = kvm_ioctls::Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        let vcpu = KvmVcpu::new(&vm, 0).unwrap();
        let own = |number| vcpu.get(register::isa_extension(number)) == Some(1);
        let numbered = ISA_EXTENSIONS.into_iter().zip(0..);
        let each: Vec<_> = numbered.filter(|&(_, number)| own(number)).collect();
        let names: Vec<_> = each.into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"i"));
        assert_eq!(extensions(&vcpu).collect::<Vec<_>>(), names);
    }
}
