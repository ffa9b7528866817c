//! Replaces `kvm` and `control_loop` on hosts that are not riscv64, where KVM cannot run RISC-V
//! guests.

use std::env::consts::ARCH;

use crate::error::Error;
use crate::machine::{End, Machine};
use crate::observe::Observer;

#[path = "kvm/error.rs"]
mod error;

pub use error::KvmError;

/// Returns why KVM cannot be used here.
pub fn usable() -> Result<(), Error> {
    Err(Error::from(KvmError::NotRiscv { arch: ARCH }))
}

/// Returns the same error.
pub fn run(_machine: &Machine, _observer: &dyn Observer) -> Result<End, Error> {
    usable().map(|()| End::PowerOff)
}

/// The lines of `hartvisor check` about KVM: none.
pub fn report() -> Vec<(&'static str, String)> {
    Vec::new()
}
