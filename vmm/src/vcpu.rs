//! The life of a vCPU: run, answer, run again.

mod gate;

use devices::platform::bus::Bus;

pub use gate::Gate;

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
    /// A signal, or nothing at all: go on, if the gate is open.
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

    /// Gives the last exit's answer to the registers, and runs no guest code: the vCPU's state is then whole.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn complete_exit(&mut self) -> Result<(), Error>;

    /// Ends the effect of a kick, by which the vCPU was kept out of the guest.
    fn forget_kick(&mut self);

    /// The guest's `time` CSR, in ticks of the timebase. One for the VM.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn time(&self) -> Result<u64, Error>;

    /// Sets it. Vcpus that are in the guest keep the old one until they leave it.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn set_time(&mut self, ticks: u64) -> Result<(), Error>;
}

/// Runs `vcpu` until the guest ends, and returns how, or until `gate` is closed for good.
///
/// # Errors
/// As [`Vcpu::run`].
pub fn run(
    vcpu: &mut impl Vcpu,
    bus: &Bus,
    console: &sbi::Console,
    mut faults: Faults,
    gate: &Gate,
) -> Result<Option<End>, Error> {
    while gate.pass(vcpu)? {
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
