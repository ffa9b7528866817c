//! The life of a vCPU: run, answer, run again.

use std::sync::atomic::{AtomicBool, Ordering};

use devices::platform::bus::Bus;

use crate::error::Error;
use crate::hart::Hart;
use crate::hart::fault::Faults;
use crate::machine::End;
use crate::{csr, sbi};

/// Why a vCPU came back to us.
#[derive(Debug)]
pub enum Exit<'a> {
    /// A load from where no RAM is: the answer goes into the slice.
    MmioRead(u64, &'a mut [u8]),
    /// A store to where no RAM is.
    MmioWrite(u64, &'a [u8]),
    /// An SBI call that KVM does not answer.
    Sbi(sbi::Call<'a>),
    /// A read of a CSR that KVM does not emulate: the answer goes into the reference.
    ReadCsr(u64, &'a mut u64),
    /// The hypervisor cannot execute the instruction at which the hart stands.
    Fault,
    /// The guest ended.
    Ended(End),
    /// A signal, or nothing at all: look whether to stop, and go on.
    Interrupted,
}

/// What runs guest code. Only KVM does; a test runs a script.
pub trait Vcpu {
    /// Runs until the guest needs us.
    ///
    /// # Errors
    /// The hypervisor's: the vCPU cannot go on.
    fn run(&mut self) -> Result<Exit<'_>, Error>;

    /// Its registers.
    fn hart(&mut self) -> &mut dyn Hart;
}

/// Runs `vcpu` until the guest ends, and says how, or until `stop` is set.
///
/// # Errors
/// As [`Vcpu::run`].
pub fn run(
    vcpu: &mut impl Vcpu,
    bus: &Bus,
    console: &sbi::Console,
    mut faults: Faults,
    stop: &AtomicBool,
) -> Result<Option<End>, Error> {
    while !stop.load(Ordering::SeqCst) {
        match vcpu.run()? {
            Exit::MmioRead(address, data) => {
                if !bus.read(address, data) {
                    faults.unclaimed(vcpu.hart())?;
                }
            }
            Exit::MmioWrite(address, data) => {
                if !bus.write(address, data) {
                    faults.unclaimed(vcpu.hart())?;
                }
            }
            Exit::Fault => {
                if let Some(end) = faults.answer(vcpu.hart(), bus)? {
                    return Ok(Some(end));
                }
            }
            Exit::Sbi(call) => console.call(call),
            Exit::ReadCsr(number, value) => *value = csr::read(number),
            Exit::Ended(end) => return Ok(Some(end)),
            Exit::Interrupted => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "vcpu_test.rs"]
mod tests;
