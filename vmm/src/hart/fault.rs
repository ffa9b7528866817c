//! Handles the guest accesses that KVM does not.
//!
//! KVM_RUN fails with EIO or EOPNOTSUPP on a fetch from an address without memory, and on a load or
//! store there that it cannot decode (docs/riscv-kvm.md). It reports neither the kind nor the
//! cause, and `kvm_run` is stale. What remains are the hart's registers, with pc at the
//! instruction, and guest memory. So the instruction is fetched and decoded again, through the
//! guest's page table, and gets the outcome that it has on a hart: an access to a device, made in
//! KVM's place, or an exception.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use devices::platform::bus::Bus;
use log::{debug, warn};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::decode::{Data, Instruction, integer};
use super::paging::{PAGE, Paging, Refused, Use, is_memory};
use super::{Cause, Exception, Hart, Register, sstatus, vector};
use crate::error::Error;
use crate::kvm::KvmError;
use crate::machine::End;

/// Failures of KVM_RUN that are handled per run. Each costs three lines in the host's kernel log,
/// which are not rate-limited.
const LIMIT: u32 = 10_000;
/// Average interval at which a vCPU's failures are handled.
const INTERVAL: Duration = Duration::from_millis(10);
/// How far a vCPU may run ahead of that: a burst of 100 failures.
const BURST: Duration = Duration::from_secs(1);

/// How many more failures are handled, shared by all vCPUs of a guest and kept across reboots.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicI64>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(AtomicI64::new(LIMIT.into())))
    }
}

impl Budget {
    /// Takes one; returns false if none is left.
    fn spend(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) > 0
    }
}

/// Handles the failures of one vCPU.
#[derive(Clone)]
pub struct Faults {
    memory: Arc<GuestMemoryMmap>,
    budget: Budget,
    /// When the next failure is due at one per [`INTERVAL`].
    next: Option<Instant>,
}

/// The outcome of an instruction.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The hart takes an exception.
    Exception(Exception),
    /// An aligned access of one register to this guest physical address, which is not RAM.
    Access(Instruction, u64),
    /// All of its addresses are RAM, so another hart changed the page table or the code meanwhile.
    /// Run it again.
    Again,
    /// The word is no load or store.
    Unknown(u32),
}

impl Faults {
    /// Creates the handler for a guest with this memory.
    pub fn new(memory: Arc<GuestMemoryMmap>, budget: Budget) -> Faults {
        Faults { memory, budget, next: None }
    }

    /// Handles a failure of KVM_RUN. Returns `Some` if the hart cannot continue.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn answer(&mut self, hart: &mut dyn Hart, bus: &Bus) -> Result<Option<End>, Error> {
        if !self.budget.spend() {
            warn!(
                "vCPU {}: KVM could not execute {LIMIT} accesses of this guest, which is the limit per run",
                hart.id()
            );
            return Ok(Some(End::Failure));
        }
        thread::sleep(self.delay(Instant::now()));
        self.try_answer(hart, bus)
            .map_err(|source| failed(hart, source))
    }

    fn try_answer(&self, hart: &mut dyn Hart, bus: &Bus) -> io::Result<Option<End>> {
        let (id, pc) = (hart.id(), hart.get(Register::Pc)?);
        match self.find(hart)? {
            Finding::Exception(Exception { cause: Cause::InstructionAccess, .. })
                if pc == vector(hart)? =>
            {
                warn!(
                    "vCPU {id}: the guest's trap vector {pc:#x} (stvec) is at an address where nothing can be executed"
                );
                return Ok(Some(End::Failure));
            }
            Finding::Exception(exception) => {
                debug!("vCPU {id}: {exception:x?} at pc {pc:#x}");
                exception.inject(hart)?;
            }
            Finding::Access(instruction, address) => {
                access(hart, bus, instruction, address)?;
            }
            Finding::Again => {}
            Finding::Unknown(word) => {
                warn!(
                    "vCPU {id}: KVM cannot execute the instruction {word:#x} at pc {pc:#x}, and it is not a load or \
                     store that hartvisor could emulate"
                );
                return Ok(Some(End::Failure));
            }
        }
        Ok(None)
    }

    /// Handles a load or store that KVM passed on and that no device claims. The hart takes an
    /// exception in two cases: the instruction's address is beyond the end of RAM, or KVM's address
    /// is not the instruction's own, but one in the second page of the access or of a page table.
    /// Otherwise nothing happens: loads return zeroes, as guests that probe for devices expect.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn unclaimed(&self, hart: &mut dyn Hart) -> Result<(), Error> {
        self.try_unclaimed(hart)
            .map_err(|source| failed(hart, source))
    }

    fn try_unclaimed(&self, hart: &mut dyn Hart) -> io::Result<()> {
        let Finding::Exception(exception) = self.find(hart)? else {
            return Ok(());
        };
        if !matches!(exception.cause, Cause::LoadAccess | Cause::StoreAccess) {
            return Ok(());
        }
        // Make the hypervisor complete the access, then restore the registers that it wrote.
        let registers = || [Register::Pc].into_iter().chain((1..32).map(Register::X));
        let saved = registers().map(|it| Ok((it, hart.get(it)?)));
        let saved: Vec<_> = saved.collect::<io::Result<_>>()?;
        hart.complete()?;
        for (register, value) in saved {
            hart.set(register, value)?;
        }
        exception.inject(hart)
    }

    /// Returns how long to wait before handling a failure at `now`.
    fn delay(&mut self, now: Instant) -> Duration {
        let next = self.next.map_or(now, |next| next.max(now)) + INTERVAL;
        self.next = Some(next);
        next.saturating_duration_since(now + BURST)
    }

    /// Finds the outcome of the instruction at pc.
    fn find(&self, hart: &dyn Hart) -> io::Result<Finding> {
        let paging = Paging::of(hart)?;
        let word = match self.fetch(paging, hart.get(Register::Pc)?) {
            Ok(word) => word,
            Err(exception) => return Ok(Finding::Exception(exception)),
        };
        let Some(instruction) = Instruction::decode(word) else {
            return Ok(Finding::Unknown(word));
        };
        Ok(match instruction.address(hart)? {
            Some(address) => self.reach(paging, instruction, address),
            // stval may be zero.
            None => exception(instruction.what, Refused::Table, 0),
        })
    }

    /// Fetches the instruction at `pc`. Its two halves may lie in different pages.
    fn fetch(&self, paging: Paging, pc: u64) -> Result<u32, Exception> {
        let half = |address| {
            let refused = |cause| Exception { cause, value: address };
            let physical =
                paging
                    .walk(&self.memory, address, Use::Fetch)
                    .map_err(|why| match why {
                        Refused::Page => refused(Cause::InstructionPage),
                        Refused::Table => refused(Cause::InstructionAccess),
                    })?;
            let half: Result<u16, _> = self.memory.load(GuestAddress(physical), Ordering::Relaxed);
            half.map(u32::from)
                .map_err(|_| refused(Cause::InstructionAccess))
        };
        let low = half(pc)?;
        match low & 3 {
            3 => Ok(low | half(pc.wrapping_add(2))? << 16),
            _ => Ok(low),
        }
    }

    /// Finds the outcome of the instruction's access to guest virtual address `address`.
    fn reach(&self, paging: Paging, instruction: Instruction, address: u64) -> Finding {
        let (what, size) = (instruction.what, instruction.size);
        let page = |address: u64| address / PAGE;
        let second = page(address.wrapping_add(size - 1)) * PAGE;
        let crosses = page(second) != page(address);
        let physical = match paging.walk(&self.memory, address, what) {
            Ok(physical) => physical,
            Err(why) => return exception(what, why, address),
        };
        if is_memory(&self.memory, physical) {
            return match crosses.then(|| paging.walk(&self.memory, second, what)) {
                None => Finding::Again,
                Some(Ok(physical)) if is_memory(&self.memory, physical) => Finding::Again,
                Some(Ok(_)) => exception(what, Refused::Table, second),
                Some(Err(why)) => exception(what, why, second),
            };
        }
        let beyond = physical > self.memory.last_addr().0;
        let aligned = address.is_multiple_of(size);
        if beyond || !aligned || instruction.data == Data::Other {
            // Misaligned accesses outside RAM are access faults too: a misaligned handler could not
            // split them.
            return exception(what, Refused::Table, address);
        }
        Finding::Access(instruction, physical)
    }
}

/// The exception of a load or store at guest virtual address `value`.
fn exception(what: Use, why: Refused, value: u64) -> Finding {
    let cause = match (what, why) {
        (Use::Load, Refused::Table) => Cause::LoadAccess,
        (Use::Load, Refused::Page) => Cause::LoadPage,
        (_, Refused::Table) => Cause::StoreAccess,
        (_, Refused::Page) => Cause::StorePage,
    };
    Finding::Exception(Exception { cause, value })
}

/// Performs an access in place of the hart, and moves pc to the next instruction.
fn access(
    hart: &mut dyn Hart,
    bus: &Bus,
    instruction: Instruction,
    address: u64,
) -> io::Result<()> {
    let Instruction { size, data, .. } = instruction;
    let mut bytes = [0; 8];
    let length = usize::try_from(size).unwrap_or(0);
    let moved = bytes.get_mut(..length).unwrap_or_default();
    let unused = 64_u32.saturating_sub(8 * u32::try_from(size).unwrap_or(0));
    if instruction.what == Use::Load {
        bus.read(address, moved);
        let value = u64::from_le_bytes(bytes);
        match data {
            Data::Signed(0) | Data::Unsigned(0) | Data::Other => {}
            Data::Signed(register) => {
                let extended = (value << unused).cast_signed() >> unused;
                hart.set(Register::X(register), extended.cast_unsigned())?;
            }
            Data::Unsigned(register) => hart.set(Register::X(register), value)?,
            Data::Float(register) => {
                let boxed = match unused {
                    0 => value,
                    _ => value | u64::MAX << (64 - unused),
                };
                hart.set(Register::F(register), boxed)?;
                // Otherwise the guest's kernel would not save the register on a context switch.
                let status = hart.get(Register::Sstatus)?;
                hart.set(Register::Sstatus, status | sstatus::FS)?;
            }
        }
    } else {
        let value = match data {
            Data::Signed(register) | Data::Unsigned(register) => integer(hart, register)?,
            Data::Float(register) => hart.get(Register::F(register))?,
            Data::Other => 0,
        };
        moved
            .iter_mut()
            .zip(value.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        bus.write(address, moved);
    }
    let pc = hart.get(Register::Pc)?;
    hart.set(Register::Pc, pc.wrapping_add(instruction.length))
}

fn failed(hart: &dyn Hart, source: io::Error) -> Error {
    KvmError::call(format!("give vCPU {} an exception", hart.id()))(source)
}

#[cfg(test)]
#[path = "fault_test.rs"]
mod tests;
