//! Stands in for `kvm` and `control_loop` on machines whose KVM, if any, runs guests of another architecture.

use std::env::consts::ARCH;

use crate::error::Error;
use crate::machine::{End, Machine};
use crate::observe::Observer;

/// Why KVM cannot be used here.
pub fn usable() -> Result<(), Error> {
    Err(Error::NotRiscv { arch: ARCH })
}

/// Cannot run a machine here.
pub fn run(_machine: &Machine, _observer: &dyn Observer) -> Result<End, Error> {
    usable().map(|()| End::PowerOff)
}

/// What `hartvisor check` says of it, a line for each fact.
pub fn report() -> Vec<(&'static str, String)> {
    Vec::new()
}
