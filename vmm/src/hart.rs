//! A hart as its hypervisor sees it from outside: registers, and what an exception does to them.
//!
//! ```text
//!   fault        what the hart would have done where KVM gave up: an access, or an exception
//!    ├── decode    which access an instruction makes
//!    └── paging    where an address leads
//! ```
//!
//! Nothing here knows KVM: tests run it on every machine.

use std::io;

pub mod decode;
pub mod fault;
pub mod paging;

/// A register of a hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The address of the instruction that is next.
    Pc,
    /// The privilege mode: 0 U, 1 S.
    Mode,
    /// An integer register, 1 to 31. x0 is nothing that can be read.
    X(u8),
    /// A floating-point register, 0 to 31, of 64 bits.
    F(u8),
    /// The vector element at which an instruction begins.
    Vstart,
    /// Status of S-mode.
    Sstatus,
    /// Trap vector of S-mode.
    Stvec,
    /// Where an exception was taken.
    Sepc,
    /// Why.
    Scause,
    /// The address that the exception is about.
    Stval,
    /// The page table.
    Satp,
}

/// A hart that is not running. KVM's vCPU is one; a test has its own.
pub trait Hart {
    /// Its number.
    fn id(&self) -> u32;

    /// A register's value.
    ///
    /// # Errors
    /// The hypervisor's: the hart has no such register.
    fn get(&self, register: Register) -> io::Result<u64>;

    /// Sets a register.
    ///
    /// # Errors
    /// As [`Hart::get`].
    fn set(&mut self, register: Register, value: u64) -> io::Result<()>;

    /// Finishes the instruction whose load or store the hypervisor has just handed to us, without
    /// running another one. What it changes can be set afterwards.
    ///
    /// # Errors
    /// The hypervisor's.
    fn complete(&mut self) -> io::Result<()>;
}

/// Bits of `sstatus` (privileged architecture, "Supervisor Status Register").
mod sstatus {
    pub(super) const SIE: u64 = 1 << 1;
    pub(super) const SPIE: u64 = 1 << 5;
    pub(super) const SPP: u64 = 1 << 8;
    /// State of the floating-point registers: both bits, dirty.
    pub(super) const FS: u64 = 0b11 << 13;
    pub(super) const SUM: u64 = 1 << 18;
    pub(super) const MXR: u64 = 1 << 19;
}

/// Why a hart traps (privileged architecture, "Supervisor Cause Register"): the codes of `scause`
/// for synchronous exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A fetch from where no memory is.
    InstructionAccess = 1,
    /// A load that memory or device does not answer.
    LoadAccess = 5,
    /// A store, an AMO or a cache-block operation that they do not take.
    StoreAccess = 7,
    /// A fetch that the page table does not allow.
    InstructionPage = 12,
    /// A load that it does not allow.
    LoadPage = 13,
    /// A store that it does not allow.
    StorePage = 15,
}

/// An exception that a hart takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `scause`.
    pub cause: Cause,
    /// `stval`.
    pub value: u64,
}

impl Exception {
    /// Has `hart` take it in S-mode, at the instruction where it stands ("Supervisor Trap Vector
    /// Base Address Register"): only an interrupt may go to a vectored entry.
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

/// Where `hart` takes exceptions: `stvec` without its mode.
fn vector(hart: &dyn Hart) -> io::Result<u64> {
    Ok(hart.get(Register::Stvec)? & !3)
}

#[cfg(test)]
pub(crate) mod model;
