//! The vCPUs' threads, and how they are brought back from the guest.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Builder};

use devices::platform::bus::Bus;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::end::Ending;
use super::vcpu::KvmVcpu;
use crate::error::Error;
use crate::hart::fault::Faults;
use crate::observe::{ObservedVcpu, Observer};
use crate::{sbi, vcpu};

/// The signal that brings a vCPU out of KVM_RUN: one that nobody sends to a process to mean something else.
const KICK: Signal = Signal::SIGURG;

/// Runs all vCPUs, each in its thread, until the run ends. `heard` is called for each signal by which a user speaks to us.
pub(super) fn run(
    vcpus: &mut [KvmVcpu],
    bus: &Bus,
    console: &sbi::Console,
    faults: &Faults,
    ending: &Ending,
    observer: &dyn Observer,
    heard: impl Fn(Signal),
) -> Result<(), Error> {
    install_kick_handler()?;
    let kicks: Vec<Kick> = vcpus.iter().map(Kick::new).collect();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((vcpu, kick), id) in vcpus.iter_mut().zip(&kicks).zip(0..) {
            let run = move || {
                kick.arrive();
                let (stop, faults) = (&ending.stop, faults.clone());
                let end = match observer.vcpu(id) {
                    None => vcpu::run(vcpu, bus, console, faults, stop),
                    Some(seen) => vcpu::run(
                        &mut ObservedVcpu::new(vcpu, seen),
                        bus,
                        console,
                        faults,
                        stop,
                    ),
                };
                if let Some(end) = end.transpose() {
                    ending.set(end);
                }
            };
            match Builder::new()
                .name(format!("vcpu{id}"))
                .spawn_scoped(scope, run)
            {
                Ok(thread) => threads.push(thread),
                Err(source) => ending.set(Err(Error::Host {
                    what: format!("start the thread of vCPU {id}"),
                    source,
                })),
            }
        }
        ending.wait(heard);
        for kick in &kicks {
            // SAFETY: the vCPUs outlive this scope. `threads` holds the handles until after this
            // loop, so no thread is joined or detached before.
            unsafe { kick.out() };
        }
    });
    Ok(())
}

/// Brings a vCPU back from the guest, from another thread.
struct Kick {
    /// In the kvm_run page: KVM looks at it on its way into the guest, so that a kick just before KVM_RUN is not lost.
    immediate_exit: NonNull<AtomicU8>,
    thread: OnceLock<Pthread>,
}

// SAFETY: `immediate_exit` is atomic; who looks at it vouches that it is still mapped.
unsafe impl Sync for Kick {}
// SAFETY: as above.
unsafe impl Send for Kick {}

impl Kick {
    fn new(vcpu: &KvmVcpu) -> Kick {
        Kick {
            immediate_exit: vcpu.immediate_exit(),
            thread: OnceLock::new(),
        }
    }

    /// To be called by the vCPU's thread before it looks whether to stop for the first time.
    fn arrive(&self) {
        let _ = self.thread.set(pthread_self());
    }

    /// Makes the vCPU leave the guest, now and whenever it tries to enter.
    ///
    /// # Safety
    /// The vCPU still exists, and its thread, if it has arrived, is not yet joined.
    unsafe fn out(&self) {
        // SAFETY: the byte is mapped as long as the vCPU exists.
        unsafe { self.immediate_exit.as_ref() }.store(1, Ordering::SeqCst);
        if let Some(&thread) = self.thread.get() {
            // Fails only for a thread that has ended, which is as good.
            let _ = pthread_kill(thread, KICK);
        }
    }
}

/// Lets the kick signal interrupt system calls, and do nothing else.
fn install_kick_handler() -> Result<(), Error> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is safe at any time.
    unsafe { sigaction(KICK, &action) }
        .map(drop)
        .map_err(|errno| Error::Host {
            what: "install a signal handler".to_owned(),
            source: errno.into(),
        })
}
