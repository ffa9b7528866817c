//! The vCPU threads, and how they are made to leave the guest.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{Builder, JoinHandle};

use devices::platform::bus::Bus;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, register_signal_handler};

use super::vcpu::KvmVcpu;
use crate::control::Control;
use crate::error::Error;
use crate::hart::fault::Faults;
use crate::observe::{ObservedVcpu, Observer};
use crate::vcpu::Gate;
use crate::{sbi, vcpu};

/// The signal that makes a vCPU leave KVM_RUN. It has no other use for this process.
const KICK: i32 = libc::SIGURG;

/// State shared by the vCPUs of a VM.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) console: sbi::Console,
    pub(crate) faults: Faults,
    pub(crate) gate: Arc<Gate>,
    pub(crate) control: Arc<Control>,
}

/// The running vCPUs, a thread per vCPU. Dropping this stops them.
pub(crate) struct VcpuThreads {
    shared: Arc<Shared>,
    threads: Vec<VcpuKick>,
}

impl VcpuThreads {
    /// Starts `vcpus`. They run until the gate stops them.
    ///
    /// # Errors
    /// The host has no thread left.
    pub(crate) fn start(
        vcpus: Vec<KvmVcpu>,
        shared: Shared,
        observer: &dyn Observer,
    ) -> Result<VcpuThreads, Error> {
        install_kick_handler()?;
        let shared = Arc::new(shared);
        let mut started = VcpuThreads { shared: Arc::clone(&shared), threads: Vec::new() };
        for (id, mut vcpu) in vcpus.into_iter().enumerate() {
            let immediate_exit = vcpu.immediate_exit();
            let probe = observer.vcpu(id);
            let shared = Arc::clone(&shared);
            let run = move || {
                let Shared { bus, console, faults, gate, control } = &*shared;
                let faults = faults.clone();
                let end = match probe {
                    None => vcpu::run(&mut vcpu, bus, console, faults, gate),
                    Some(probe) => vcpu::run(
                        &mut ObservedVcpu::new(&mut vcpu, probe),
                        bus,
                        console,
                        faults,
                        gate,
                    ),
                };
                if let Some(end) = end.transpose() {
                    gate.end(end);
                    control.wake();
                }
                // Kept until the thread is joined, because a kick may still be in progress.
                vcpu
            };
            let thread = Builder::new().name(format!("vcpu{id}")).spawn(run);
            let thread = thread.map_err(Error::host(format!("start the thread of vCPU {id}")))?;
            started.threads.push(VcpuKick { immediate_exit, thread });
        }
        Ok(started)
    }

    /// Returns when no vCPU is in the guest or about to enter it, and the guest's clock stands
    /// still. Returns false if the vCPUs were paused already.
    pub(crate) fn pause(&self) -> bool {
        self.shared.gate.pause(|| self.kick())
    }

    /// Resumes the vCPUs. The clock continues from where it stopped.
    pub(crate) fn resume(&self) {
        self.shared.gate.resume();
    }

    /// Stops the vCPUs, and returns their shared state.
    pub(crate) fn stop(self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    #[cfg(all(test, feature = "e2e"))]
    pub(crate) fn threads(&self) -> impl Iterator<Item = &JoinHandle<KvmVcpu>> {
        self.threads.iter().map(|kick| &kick.thread)
    }

    fn kick(&self) {
        self.threads.iter().for_each(VcpuKick::kick);
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.shared.gate.stop();
        self.kick();
        for VcpuKick { thread, .. } in self.threads.drain(..) {
            // A panic has ended the process already.
            let _ = thread.join();
        }
    }
}

/// Makes a vCPU leave the guest, from another thread.
struct VcpuKick {
    /// A byte of kvm_run. KVM checks it before it enters the guest, so that a kick just before
    /// KVM_RUN is not lost.
    immediate_exit: NonNull<AtomicU8>,
    /// Owns the vCPU, and returns it when joined.
    thread: JoinHandle<KvmVcpu>,
}

impl VcpuKick {
    /// Makes the vCPU leave the guest, now and whenever it tries to enter, until its thread clears
    /// the kick.
    fn kick(&self) {
        // SAFETY: the byte is mapped as long as the vCPU exists, and the thread is not yet joined.
        unsafe { self.immediate_exit.as_ref() }.store(1, Ordering::SeqCst);
        // Fails only if the thread has ended, which is fine.
        let _ = self.thread.kill(KICK);
    }
}

/// Installs an empty handler, so that the signal only interrupts system calls.
fn install_kick_handler() -> Result<(), Error> {
    extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
    register_signal_handler(KICK, nothing).map_err(Error::host("install a signal handler"))
}
