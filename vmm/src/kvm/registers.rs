//! The virtio devices' registers where the guest reaches them without us: a read-only page of memory and ioeventfds for
//! each device.
//!
//! A load from it does not leave the guest. A store does, as KVM has nowhere to put it, and comes to us or to an ioeventfd as
//! any store to a device (KVM_MEM_READONLY, Documentation/virt/kvm/api.rst, 4.35).

#![allow(unsafe_code)]

use devices::transport::mmio::{self, QUEUE_NOTIFY};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use log::debug;

use crate::board::Devices;

/// Lets KVM turn a store to QueueNotify into the queue's event, in the kernel. Without that the store comes to us as any
/// other, and has the same effect. It does so too for a queue that is served at once, by the thread of the vCPU.
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

/// Shows the guest the registers of `devices`, slot by slot, in KVM's memory slots from `first` on. Where KVM cannot, loads
/// come to us like stores and give the same. The caller keeps the devices until no vCPU runs any more.
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
        // SAFETY: a page with nothing else in it, which KVM only reads, and which the caller keeps.
        if let Err(error) = unsafe { vm.set_user_memory_region(region) } {
            debug!("device at {base:#x}: its registers cannot be shown in place: {error}");
        }
    }
}
