//! A hart as seen by its hypervisor: its registers, and what an exception does to them.
//!
//! ```text
//!   fault        emulates the access or exception that KVM did not handle
//!    ├── decode    finds the memory access of an instruction
//!    └── paging    translates guest virtual addresses
//! ```
//!
//! Nothing here depends on KVM, so the tests run on every machine.

use std::io;

pub mod decode;
pub mod fault;
pub mod paging;

/// A register of a hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The address of the next instruction.
    Pc,
    /// The privilege mode: 0 U, 1 S.
    Mode,
    /// An integer register, 1 to 31. x0 has no register in KVM.
    X(u8),
    /// A floating-point register, 0 to 31, of 64 bits.
    F(u8),
    /// The vector element at which a vector instruction starts.
    Vstart,
    /// S-mode status.
    Sstatus,
    /// S-mode trap vector.
    Stvec,
    /// Address of the instruction that trapped.
    Sepc,
    /// Cause of the trap.
    Scause,
    /// Trap value, usually the faulting address.
    Stval,
    /// Root page table and paging mode.
    Satp,
}

/// A hart that is not running: a KVM vCPU, or a model in tests.
pub trait Hart {
    /// Returns the hart's number.
    fn id(&self) -> u32;

    /// Returns a register's value.
    ///
    /// # Errors
    /// The hypervisor's: the hart has no such register.
    fn get(&self, register: Register) -> io::Result<u64>;

    /// Sets a register.
    ///
    /// # Errors
    /// As [`Hart::get`].
    fn set(&mut self, register: Register, value: u64) -> io::Result<()>;

    /// Completes the instruction whose load or store caused the last exit, without running another
    /// one. The caller may then change the registers that it wrote.
    ///
    /// # Errors
    /// The hypervisor's.
    fn complete(&mut self) -> io::Result<()>;
}

/// Bits of `sstatus` (privileged architecture, "Supervisor Status (sstatus) Register").
mod sstatus {
    pub(super) const SIE: u64 = 1 << 1;
    pub(super) const SPIE: u64 = 1 << 5;
    pub(super) const SPP: u64 = 1 << 8;
    /// State of the floating-point unit; both bits set: dirty.
    pub(super) const FS: u64 = 0b11 << 13;
    pub(super) const SUM: u64 = 1 << 18;
    pub(super) const MXR: u64 = 1 << 19;
}

/// `scause` codes of synchronous exceptions (privileged architecture, "Supervisor Cause (scause)
/// Register").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A fetch from an address without memory.
    InstructionAccess = 1,
    /// A load that neither memory nor a device accepts.
    LoadAccess = 5,
    /// A store, AMO or cache-block operation that neither memory nor a device accepts.
    StoreAccess = 7,
    /// A fetch that the page table does not permit.
    InstructionPage = 12,
    /// A load that the page table does not permit.
    LoadPage = 13,
    /// A store that the page table does not permit.
    StorePage = 15,
}

/// A synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `scause`.
    pub cause: Cause,
    /// `stval`.
    pub value: u64,
}

impl Exception {
    /// Makes `hart` take the exception in S-mode at its current pc. The vectored mode of `stvec`
    /// applies to interrupts only ("Supervisor Trap Vector Base Address (stvec) Register").
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn inject(self, hart: &mut dyn Hart) -> io::Result<()> {
        let old = hart.get(Register::Sstatus)?;
        let supervisor = hart.get(Register::Mode)? == 1;
        let mut status = old & !(sstatus::SIE | sstatus::SPIE | sstatus::SPP);
        if old & sstatus::SIE != 0 {
            status |= sstatus::SPIE;
        }
        if supervisor {
            status |= sstatus::SPP;
        }
        let pc = hart.get(Register::Pc)?;
        let vector = vector(hart)?;
        for (register, value) in [
            (Register::Sepc, pc),
            (Register::Scause, self.cause as u64),
            (Register::Stval, self.value),
            (Register::Sstatus, status),
            (Register::Pc, vector),
            (Register::Mode, 1),
        ] {
            hart.set(register, value)?;
        }
        Ok(())
    }
}

/// The exception handler's address: `stvec` without its mode bits.
fn vector(hart: &dyn Hart) -> io::Result<u64> {
    Ok(hart.get(Register::Stvec)? & !3)
}

#[cfg(test)]
pub(crate) mod model;
