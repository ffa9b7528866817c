//! A vCPU's run loop: run, handle the exit, run again.

mod gate;

use devices::platform::bus::Bus;

pub use gate::Gate;

use crate::error::Error;
use crate::hart::Hart;
use crate::hart::fault::Faults;
use crate::machine::End;
use crate::{csr, sbi};

/// Why a vCPU left the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// A load outside RAM: the value goes into the slice.
    MmioRead(u64, &'a mut [u8]),
    /// A store outside RAM.
    MmioWrite(u64, &'a [u8]),
    /// An SBI call that KVM does not handle.
    Sbi(sbi::Call<'a>),
    /// A read of a CSR that KVM does not emulate: the value goes into the reference.
    ReadCsr(u64, &'a mut u64),
    /// The hypervisor cannot execute the instruction at the hart's pc.
    Fault,
    /// The guest ended.
    Ended(End),
    /// A signal, or a spurious exit: run on if the gate is open.
    Interrupted,
}

/// Runs guest code. KVM is the only implementation; tests run a script.
pub trait Vcpu {
    /// Runs guest code until the next exit.
    ///
    /// # Errors
    /// The hypervisor cannot run the vCPU any more.
    fn run(&mut self) -> Result<Exit<'_>, Error>;

    /// Returns the vCPU's registers.
    fn hart(&mut self) -> &mut dyn Hart;

    /// Completes the last exit, without running guest code: its result is written to the registers,
    /// and the vCPU's state is consistent.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn complete_exit(&mut self) -> Result<(), Error>;

    /// Clears a kick, so that the vCPU can enter the guest again.
    fn forget_kick(&mut self);

    /// Returns the guest's `time` CSR in ticks of the timebase. All vCPUs of the VM share it.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn time(&self) -> Result<u64, Error>;

    /// Sets the `time` CSR. vCPUs that are in the guest see the old one until they leave it.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn set_time(&mut self, ticks: u64) -> Result<(), Error>;
}

/// Runs `vcpu` until the guest ends, and returns how it ended, or `None` if `gate` was closed for
/// good.
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
