//! Accesses to virtio registers that need no exit to user space: a read-only memory slot and
//! ioeventfds per device.
//!
//! A load from the slot does not leave the guest. A store causes an MMIO exit, which KVM passes to
//! us or to an ioeventfd (KVM_MEM_READONLY, Documentation/virt/kvm/api.rst, 4.35).

#![allow(unsafe_code)]

use devices::transport::mmio::{self, QUEUE_NOTIFY};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use log::debug;

use crate::board::Devices;

/// Has KVM signal a queue's event on a store to QueueNotify. If KVM refuses, the store is an exit
/// with the same effect. A queue with an inline notify gets no ioeventfd: the vCPU's thread serves
/// it.
pub(super) fn attach_kicks(vm: &VmFd, devices: &Devices) {
    if !vm.check_extension(Cap::Ioeventfd) {
        return debug!("no ioeventfd: every notification exits to user space");
    }
    for (base, device) in devices.iter() {
        let address = base.saturating_add(QUEUE_NOTIFY);
        for (queue, kick) in device.kicks() {
            let address = IoEventAddress::Mmio(address);
            if let Err(error) = vm.register_ioevent(kick, &address, queue) {
                debug!("device at {base:#x} queue {queue}: no ioeventfd: {error}");
            }
        }
    }
}

/// Maps the register pages of `devices` into the guest, in memory slots from `first` on. If KVM
/// refuses, loads are exits with the same result. The caller keeps the devices until no vCPU runs.
pub(super) fn show(vm: &VmFd, first: usize, devices: &Devices) {
    if !vm.check_extension(Cap::ReadonlyMem) {
        return debug!("no read-only memory: every load of a register exits to user space");
    }
    for ((base, device), number) in devices.iter().zip(first..) {
        let Ok(number) = u32::try_from(number) else {
            return;
        };
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: base,
            memory_size: mmio::SIZE,
            userspace_addr: device.registers().as_ptr() as u64,
        };
        // SAFETY: a separate page that KVM only reads, and that the caller keeps.
        if let Err(error) = unsafe { vm.set_user_memory_region(region) } {
            debug!("device at {base:#x}: its registers cannot be mapped into the guest: {error}");
        }
    }
}
