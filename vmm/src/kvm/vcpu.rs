//! A KVM vCPU: its registers, its start, and its exits.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTR, KVM_EXIT_MMIO, KVM_EXIT_RISCV_CSR, KVM_EXIT_RISCV_SBI,
    KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
    kvm_run__bindgen_ty_1 as Details,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::error::KvmError;
use super::ext::{self, register};
use crate::error::Error;
use crate::hart::{Hart, Register};
use crate::machine::End;
use crate::sbi;
use crate::vcpu::{Exit, Vcpu};

/// A vCPU. Its ID is its hart ID.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    /// Mapped as long as `fd` is open. There is never a reference to all of it: another thread may
    /// store `immediate_exit` at any time.
    run: NonNull<kvm_run>,
    id: u32,
}

// SAFETY: `run` points to a mapping that belongs to `fd`, and so to this value, in any thread.
unsafe impl Send for KvmVcpu {}

impl KvmVcpu {
    pub(crate) fn new(vm: &VmFd, id: u32) -> Result<KvmVcpu, Error> {
        let mut fd = vm
            .create_vcpu(id.into())
            .map_err(KvmError::call(format!("create vCPU {id}")))?;
        let run = NonNull::from(fd.get_kvm_run());
        Ok(KvmVcpu { fd, run, id })
    }

    /// Returns a descriptor with which any thread can set the hart's external interrupt.
    pub(crate) fn interrupt_fd(&self) -> io::Result<OwnedFd> {
        ext::duplicate(&self.fd)
    }

    /// Returns the file of the vCPU's statistics.
    pub(crate) fn counters(&self) -> io::Result<File> {
        ext::counters(&self.fd)
    }

    /// Returns a register's value, or `None` if this KVM lacks the register.
    pub(crate) fn get(&self, id: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.fd.get_one_reg(id, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Sets a register.
    pub(crate) fn set(&self, id: u64, value: u64) -> io::Result<()> {
        let written = self.fd.set_one_reg(id, &value.to_le_bytes());
        written.map(drop).map_err(io::Error::from)
    }

    /// Sets the boot hart's initial registers ("Boot image header in RISC-V Linux"): a0 = hart ID,
    /// a1 = device tree. The other harts wait in KVM for the guest's SBI HSM call.
    pub(crate) fn boot_at(&self, entry: u64, fdt: u64) -> Result<(), Error> {
        let registers = [
            (register::PC, entry),
            (register::A0, self.id.into()),
            (register::A1, fdt),
        ];
        for (id, value) in registers {
            self.set(id, value).map_err(KvmError::call(format!(
                "set register {id:#x} of vCPU {}",
                self.id
            )))?;
        }
        Ok(())
    }

    /// Returns the ticks per second of the guest's `time` CSR.
    pub(crate) fn timebase(&self) -> Result<u32, Error> {
        let frequency = self.get(register::TIMER_FREQUENCY);
        frequency
            .and_then(|hz| u32::try_from(hz).ok())
            .ok_or(Error::from(KvmError::Lacks {
                what: "the timer frequency register".to_owned(),
                why: "the guest's clock needs it",
            }))
    }

    /// Returns the byte that KVM checks before it enters the guest: if it is 1, KVM_RUN returns at
    /// once. It is mapped as long as the vCPU exists.
    pub(crate) fn immediate_exit(&self) -> NonNull<AtomicU8> {
        let offset = offset_of!(kvm_run, immediate_exit);
        // SAFETY: a field of the mapping.
        unsafe { self.run.byte_add(offset) }.cast()
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> Error {
        let what = format!("{what} vCPU {}", self.id);
        move |source| Error::from(KvmError::Call { what, source })
    }

    /// Returns KVM's ID of a register.
    const fn register_id(register: Register) -> u64 {
        match register {
            Register::Pc => register::PC,
            Register::Mode => register::MODE,
            Register::X(number) => register::x(number),
            Register::F(number) => register::f(number),
            Register::Vstart => register::VSTART,
            Register::Sstatus => register::SSTATUS,
            Register::Stvec => register::STVEC,
            Register::Sepc => register::SEPC,
            Register::Scause => register::SCAUSE,
            Register::Stval => register::STVAL,
            Register::Satp => register::SATP,
        }
    }
}

impl Hart for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn get(&self, register: Register) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.fd
            .get_one_reg(KvmVcpu::register_id(register), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set(&mut self, register: Register, value: u64) -> io::Result<()> {
        KvmVcpu::set(self, KvmVcpu::register_id(register), value)
    }

    /// KVM first completes the last exit, then returns.
    fn complete(&mut self) -> io::Result<()> {
        // SAFETY: mapped as long as the vCPU exists.
        let immediate_exit = unsafe { self.immediate_exit().as_ref() };
        immediate_exit.store(1, Ordering::SeqCst);
        let ran = ext::run(&self.fd);
        // A kick in between is not lost: its sender has changed the gate before, and the caller
        // checks the gate next.
        immediate_exit.store(0, Ordering::SeqCst);
        match ran {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("KVM_RUN did not return")),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        if let Err(source) = ext::run(&self.fd) {
            return match source.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => Ok(Exit::Interrupted),
                Some(libc::EIO | libc::EOPNOTSUPP) => Ok(Exit::Fault),
                _ => Err(KvmError::call(format!("run vCPU {}", self.id))(source)),
            };
        }
        let run = self.run.as_ptr();
        // SAFETY: mapped, and KVM writes it only in KVM_RUN.
        let reason = unsafe { (*run).exit_reason };
        // SAFETY: as above. The only field that another thread stores meanwhile, `immediate_exit`,
        // is outside of it.
        let details = unsafe { &mut (*run).__bindgen_anon_1 };
        decode(reason, details, self.id)
    }

    fn hart(&mut self) -> &mut dyn Hart {
        self
    }

    fn complete_exit(&mut self) -> Result<(), Error> {
        let completed = self.complete();
        completed.map_err(self.failed("complete an exit of"))
    }

    fn forget_kick(&mut self) {
        // SAFETY: mapped as long as the vCPU exists.
        unsafe { self.immediate_exit().as_ref() }.store(0, Ordering::SeqCst);
    }

    fn time(&self) -> Result<u64, Error> {
        let time = self.get(register::TIMER_TIME);
        time.ok_or_else(|| {
            Error::from(KvmError::Lacks {
                what: "the timer's time register".to_owned(),
                why: "the guest's clock needs it",
            })
        })
    }

    fn set_time(&mut self, ticks: u64) -> Result<(), Error> {
        let set = KvmVcpu::set(self, register::TIMER_TIME, ticks);
        set.map_err(self.failed("set the guest's time on"))
    }
}

/// Decodes why KVM_RUN returned (api.rst, 5). `reason` says which member of the union is valid.
fn decode(reason: u32, details: &mut Details, id: u32) -> Result<Exit<'_>, Error> {
    match reason {
        KVM_EXIT_MMIO => {
            // SAFETY: the member that KVM filled in for KVM_EXIT_MMIO.
            let mmio = unsafe { &mut details.mmio };
            let len = mmio.data.len().min(mmio.len as usize);
            let data = mmio.data.get_mut(..len).unwrap_or_default();
            Ok(match mmio.is_write {
                0 => Exit::MmioRead(mmio.phys_addr, data),
                _ => Exit::MmioWrite(mmio.phys_addr, data),
            })
        }
        KVM_EXIT_RISCV_SBI => {
            // SAFETY: the member that KVM filled in for KVM_EXIT_RISCV_SBI.
            let call = unsafe { &mut details.riscv_sbi };
            Ok(Exit::Sbi(sbi::Call {
                extension: call.extension_id,
                function: call.function_id,
                args: call.args,
                ret: &mut call.ret,
            }))
        }
        KVM_EXIT_RISCV_CSR => {
            // SAFETY: the member that KVM filled in for KVM_EXIT_RISCV_CSR.
            let access = unsafe { &mut details.riscv_csr };
            Ok(Exit::ReadCsr(access.csr_num, &mut access.ret_value))
        }
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: the member that KVM filled in for KVM_EXIT_SYSTEM_EVENT.
            let event = unsafe { &details.system_event };
            // SAFETY: on RISC-V both variants of the inner union start with a u64: flags, or the
            // first data word.
            let data = unsafe { event.__bindgen_anon_1.data };
            Ok(Exit::Ended(match (event.type_, data) {
                // SRST's reset reason (SBI 2.0, § 10): 0 none, 1 system failure.
                (KVM_SYSTEM_EVENT_SHUTDOWN, [0, ..]) => End::PowerOff,
                (KVM_SYSTEM_EVENT_RESET, _) => End::Reboot,
                _ => End::Failure,
            }))
        }
        KVM_EXIT_INTR => Ok(Exit::Interrupted),
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the member that KVM filled in for KVM_EXIT_FAIL_ENTRY.
            let reason = unsafe { details.fail_entry.hardware_entry_failure_reason };
            Err(stuck(id, &format!("entry failure {reason:#x}")))
        }
        reason => Err(stuck(id, &format!("exit reason {reason}"))),
    }
}

fn stuck(id: u32, why: &str) -> Error {
    KvmError::call(format!("run vCPU {id}"))(io::Error::other(format!(
        "cannot continue after {why}"
    )))
}
