//! What a hart would have done where KVM gives up.
//!
//! KVM_RUN fails with EIO or EOPNOTSUPP at a fetch from where no memory is, and at a load or store
//! there that it does not decode (docs/riscv-kvm.md). It says neither which nor why, and `kvm_run`
//! is stale. All that is left are the hart's registers, with pc at the instruction, and memory: so
//! the instruction is fetched and decoded once more, through the guest's own page table, and ends
//! as on a hart. Either it is an access to a device that we can make in KVM's place, or it is an
//! exception.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use devices::platform::bus::Bus;
use log::{debug, warn};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::decode::{Data, Instruction, integer};
use super::paging::{PAGE, Paging, Refused, Use, is_memory};
use super::{Cause, Exception, Hart, Register, sstatus, vector};
use crate::error::Error;
use crate::machine::End;

/// Failures of KVM_RUN that are answered in one run. Each costs the host three lines in its
/// kernel's log, without a limit there.
const LIMIT: u32 = 10_000;
/// One vCPU gets an answer for each such interval, on average.
const INTERVAL: Duration = Duration::from_millis(10);
/// How far ahead of that it may be: 100 answers at once.
const BURST: Duration = Duration::from_secs(1);

/// How many failures may still be answered, in all lives of a guest and by all of its vCPUs.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicU32>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(AtomicU32::new(LIMIT)))
    }
}

impl Budget {
    /// False: it was spent before.
    fn spend(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// Answers for one vCPU.
#[derive(Clone)]
pub struct Faults {
    memory: Arc<GuestMemoryMmap>,
    budget: Budget,
    /// When the next answer is due, if each takes [`INTERVAL`].
    next: Option<Instant>,
}

/// What an instruction comes to.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The hart cannot execute it.
    Exception(Exception),
    /// It can: an aligned access of one register to this guest physical address, where no memory
    /// is.
    Access(Instruction, u64),
    /// All of its addresses are memory: another hart has changed what they were a moment ago.
    Again,
    /// The word neither loads nor stores.
    Unknown(u32),
}

impl Faults {
    /// For guests with this memory.
    pub fn new(memory: Arc<GuestMemoryMmap>, budget: Budget) -> Faults {
        Faults {
            memory,
            budget,
            next: None,
        }
    }

    /// Answers for a hart that KVM_RUN has failed to run. `Some` if it can never go on.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn answer(&mut self, hart: &mut dyn Hart, bus: &Bus) -> Result<Option<End>, Error> {
        if !self.budget.spend() {
            warn!(
                "vCPU {}: {LIMIT} accesses of this guest could not be executed by KVM, which is the limit of a run",
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
            Finding::Exception(Exception {
                cause: Cause::InstructionAccess,
                ..
            }) if pc == vector(hart)? => {
                warn!(
                    "vCPU {id}: the guest takes its exceptions at {pc:#x} (stvec), where nothing can be executed"
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
                    "vCPU {id}: KVM cannot execute the instruction {word:#x} at pc {pc:#x}, which is no load or store that \
                     could be made in its place"
                );
                return Ok(Some(End::Failure));
            }
        }
        Ok(None)
    }

    /// Answers for a load or store that KVM gave us and no device has taken. A hart has the
    /// exception if the instruction's address is at or beyond the end of RAM, or if it is not the
    /// instruction's own address that KVM gave us, but one of a page that it crosses into or of its
    /// page table. Anywhere else nothing happens: loads give zeroes, as guests that look for
    /// devices expect.
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
        // The hypervisor is to forget the access, whose result must not get into the registers
        // afterwards.
        let registers = || [Register::Pc].into_iter().chain((1..32).map(Register::X));
        let saved = registers().map(|it| Ok((it, hart.get(it)?)));
        let saved: Vec<_> = saved.collect::<io::Result<_>>()?;
        hart.complete()?;
        for (register, value) in saved {
            hart.set(register, value)?;
        }
        exception.inject(hart)
    }

    /// How long to wait before an answer that is asked for `now`.
    fn delay(&mut self, now: Instant) -> Duration {
        let next = self.next.map_or(now, |next| next.max(now)) + INTERVAL;
        self.next = Some(next);
        next.saturating_duration_since(now + BURST)
    }

    /// What the instruction comes to at which `hart` stands.
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

    /// The instruction at `pc`. Each half has a page of its own.
    fn fetch(&self, paging: Paging, pc: u64) -> Result<u32, Exception> {
        let half = |address| {
            let refused = |cause| Exception {
                cause,
                value: address,
            };
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

    /// What an access of an instruction comes to at guest address `address`.
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
            // Misaligned accesses to what is no memory are access faults as well: a handler could
            // not split them.
            return exception(what, Refused::Table, address);
        }
        Finding::Access(instruction, physical)
    }
}

/// The exception of a load or store at guest address `value`.
fn exception(what: Use, why: Refused, value: u64) -> Finding {
    let cause = match (what, why) {
        (Use::Load, Refused::Table) => Cause::LoadAccess,
        (Use::Load, Refused::Page) => Cause::LoadPage,
        (_, Refused::Table) => Cause::StoreAccess,
        (_, Refused::Page) => Cause::StorePage,
    };
    Finding::Exception(Exception { cause, value })
}

/// Makes an access in place of the hart, and takes it to the next instruction.
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
                // Or the guest's kernel would not save the register when it changes to another
                // process.
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
    Error::Kvm {
        what: format!("give vCPU {} an exception", hart.id()),
        source,
    }
}

#[cfg(test)]
#[path = "fault_test.rs"]
mod tests;
