//! What kvm-ioctls lacks on riscv64.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use kvm_bindings::{
    KVM_REG_RISCV, KVM_REG_RISCV_CONFIG, KVM_REG_RISCV_CORE, KVM_REG_RISCV_CSR,
    KVM_REG_RISCV_CSR_SMSTATEEN, KVM_REG_RISCV_FP_D, KVM_REG_RISCV_ISA_EXT,
    KVM_REG_RISCV_ISA_MULTI_EN, KVM_REG_RISCV_SBI_EXT, KVM_REG_RISCV_TIMER, KVM_REG_RISCV_VECTOR,
    KVM_REG_SIZE_U64, KVMIO, kvm_device_attr, kvm_interrupt, kvm_riscv_config, kvm_riscv_core,
    kvm_riscv_csr, kvm_riscv_timer, user_regs_struct,
};
use kvm_ioctls::{DeviceFd, VcpuFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// KVM_INTERRUPT's two values on RISC-V (Documentation/virt/kvm/api.rst, 4.16): set and clear the
/// hart's supervisor external interrupt.
const INTERRUPT_SET: u32 = u32::MAX;
const INTERRUPT_UNSET: u32 = u32::MAX - 1;

/// Runs a vCPU until it exits (api.rst, 4.10). VcpuFd::run would form a reference to all of
/// `kvm_run`, of which another thread may store a byte.
///
/// # Errors
/// The kernel's. `kvm_run` is then stale.
pub(super) fn run(vcpu: &VcpuFd) -> io::Result<()> {
    // SAFETY: KVM_RUN has no argument; of our memory the kernel writes `kvm_run` only, to which no
    // reference exists during the call.
    match unsafe { ioctl(&vcpu.as_raw_fd(), KVM_RUN()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets or clears the supervisor external interrupt of a vCPU. Any thread may call it, also while
/// the vCPU runs.
///
/// # Errors
/// The kernel's. There are none for a descriptor of a vCPU.
pub(super) fn interrupt(vcpu: BorrowedFd<'_>, high: bool) -> io::Result<()> {
    let irq = if high { INTERRUPT_SET } else { INTERRUPT_UNSET };
    let interrupt = kvm_interrupt { irq };
    // SAFETY: KVM_INTERRUPT reads a kvm_interrupt and keeps no reference to it.
    match unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_INTERRUPT(), &interrupt) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an attribute of an in-kernel device. `T` is the type given in the device's documentation.
///
/// # Errors
/// The kernel's.
pub(super) fn set_device<T: Attribute>(
    device: &DeviceFd,
    group: u32,
    attribute: u32,
    value: &T,
) -> io::Result<()> {
    let attribute = kvm_device_attr {
        flags: 0,
        group,
        attr: attribute.into(),
        addr: std::ptr::from_ref(value) as u64,
    };
    device.set_device_attr(&attribute).map_err(io::Error::from)
}

/// Reads a 32-bit attribute of an in-kernel device.
///
/// # Errors
/// The kernel's.
pub(super) fn get_device(device: &DeviceFd, group: u32, attribute: u32) -> io::Result<u32> {
    let mut value = 0_u32;
    let mut attribute = kvm_device_attr {
        flags: 0,
        group,
        attr: attribute.into(),
        addr: std::ptr::from_mut(&mut value) as u64,
    };
    // SAFETY: `addr` is a u32 of ours, and the attributes read here are 32 bits wide.
    unsafe { device.get_device_attr(&mut attribute) }?;
    Ok(value)
}

/// The type of an attribute's value. The kernel reads 32 or 64 bits, as the attribute says.
pub(super) trait Attribute {}
impl Attribute for u32 {}
impl Attribute for u64 {}

/// The statistics file of a VM or a vCPU (KVM_GET_STATS_FD, api.rst, 4.133).
///
/// # Errors
/// KVM lacks it (before Linux 5.14), or no descriptor is left.
pub(super) fn counters(of: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: KVM_GET_STATS_FD has no argument and touches no memory of ours.
    let fd = unsafe { ioctl(&of.as_raw_fd(), KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Duplicates a descriptor.
///
/// # Errors
/// No descriptor is left.
pub(super) fn duplicate(file: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory; `file` is open as long as it is borrowed.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ids of the one-register interface (api.rst, 4.68): kind, and index of the 64-bit word.
pub(super) mod register {
    use super::*;

    const fn id(kind: u32, index: u64) -> u64 {
        KVM_REG_RISCV.cast_unsigned() | KVM_REG_SIZE_U64 | kind as u64 | index
    }

    const fn word(byte_offset: usize) -> u64 {
        byte_offset as u64 / 8
    }

    const fn config(byte_offset: usize) -> u64 {
        id(KVM_REG_RISCV_CONFIG, word(byte_offset))
    }

    const fn csr(byte_offset: usize) -> u64 {
        id(KVM_REG_RISCV_CSR, word(byte_offset))
    }

    const fn core(byte_offset: usize) -> u64 {
        let regs = offset_of!(kvm_riscv_core, regs);
        id(KVM_REG_RISCV_CORE, word(regs + byte_offset))
    }

    pub(crate) const MVENDORID: u64 = config(offset_of!(kvm_riscv_config, mvendorid));
    pub(crate) const MARCHID: u64 = config(offset_of!(kvm_riscv_config, marchid));
    pub(crate) const MIMPID: u64 = config(offset_of!(kvm_riscv_config, mimpid));
    pub(crate) const ZICBOM_BLOCK_SIZE: u64 =
        config(offset_of!(kvm_riscv_config, zicbom_block_size));
    pub(crate) const ZICBOZ_BLOCK_SIZE: u64 =
        config(offset_of!(kvm_riscv_config, zicboz_block_size));
    pub(crate) const SATP_MODE: u64 = config(offset_of!(kvm_riscv_config, satp_mode));
    pub(crate) const PC: u64 = core(offset_of!(user_regs_struct, pc));
    pub(crate) const A0: u64 = core(offset_of!(user_regs_struct, a0));
    pub(crate) const A1: u64 = core(offset_of!(user_regs_struct, a1));
    pub(crate) const MODE: u64 = id(KVM_REG_RISCV_CORE, word(offset_of!(kvm_riscv_core, mode)));
    pub(crate) const SSTATUS: u64 = csr(offset_of!(kvm_riscv_csr, sstatus));
    pub(crate) const STVEC: u64 = csr(offset_of!(kvm_riscv_csr, stvec));
    pub(crate) const SEPC: u64 = csr(offset_of!(kvm_riscv_csr, sepc));
    pub(crate) const SCAUSE: u64 = csr(offset_of!(kvm_riscv_csr, scause));
    pub(crate) const STVAL: u64 = csr(offset_of!(kvm_riscv_csr, stval));
    pub(crate) const SATP: u64 = csr(offset_of!(kvm_riscv_csr, satp));
    /// The first register of the vector state.
    pub(crate) const VSTART: u64 = id(KVM_REG_RISCV_VECTOR, 0);
    pub(crate) const TIMER_FREQUENCY: u64 = id(
        KVM_REG_RISCV_TIMER,
        word(offset_of!(kvm_riscv_timer, frequency)),
    );
    /// The guest's `time` CSR, shared by all vCPUs.
    pub(crate) const TIMER_TIME: u64 =
        id(KVM_REG_RISCV_TIMER, word(offset_of!(kvm_riscv_timer, time)));

    /// Integer register `number`. pc takes the place of x0.
    pub(crate) const fn x(number: u8) -> u64 {
        PC + number as u64
    }

    /// Floating-point register `number`.
    pub(crate) const fn f(number: u8) -> u64 {
        id(KVM_REG_RISCV_FP_D, number as u64)
    }

    /// sstateen0. It exists only on hosts with Smstateen.
    pub(crate) const SSTATEEN0: u64 = id(KVM_REG_RISCV_CSR | KVM_REG_RISCV_CSR_SMSTATEEN, 0);

    /// Whether the guest has an ISA extension: its KVM number, see [`crate::isa`].
    pub(crate) const fn isa_extension(number: u64) -> u64 {
        id(KVM_REG_RISCV_ISA_EXT, number)
    }

    /// Whether the guest has the ISA extensions from number 64·`word` on: a bit for each.
    pub(crate) const fn isa_extensions(word: u64) -> u64 {
        id(KVM_REG_RISCV_ISA_EXT | KVM_REG_RISCV_ISA_MULTI_EN, word)
    }

    /// Whether the guest has an SBI extension: its KVM number, see [`crate::isa`].
    pub(crate) const fn sbi_extension(number: u64) -> u64 {
        id(KVM_REG_RISCV_SBI_EXT, number)
    }
}

/// KVM's number of the debug console.
pub(super) const SBI_DBCN: u64 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{ISA_EXTENSIONS, SBI_EXTENSIONS};
    use kvm_bindings::*;

    #[test]
    fn names_stand_at_the_numbers_that_the_kernel_gives_them() {
        let isa = |number: u32| ISA_EXTENSIONS[number as usize];
        assert_eq!(isa(KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_SSAIA), "ssaia");
        assert_eq!(isa(KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZBC), "zbc");
        assert_eq!(isa(KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZVKT), "zvkt");
        assert_eq!(isa(KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZTSO), "ztso");
        assert_eq!(isa(KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZALRSC), "zalrsc");
        assert_eq!(
            ISA_EXTENSIONS.len(),
            KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_MAX as usize
        );
        let dbcn = KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_DBCN;
        assert_eq!(u64::from(dbcn), SBI_DBCN);
        assert_eq!(SBI_EXTENSIONS[dbcn as usize], "dbcn");
    }
}
