use std::fs::File;
use std::sync::{Arc, Mutex};

use devices::platform::bus::BusDevice;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::hart::Register;
use crate::hart::fault::Budget;
use crate::hart::model::Model;

/// Address of the instruction lw a0, 0(a0) in memory.
const LOAD_A0: u64 = 0x8000_0000;

/// A device with one register.
#[derive(Default)]
struct Scratch(Mutex<u8>);

impl BusDevice for Scratch {
    fn read(&self, _: u64, data: &mut [u8]) {
        data[0] = *self.0.lock().unwrap();
    }

    fn write(&self, _: u64, data: &[u8]) {
        *self.0.lock().unwrap() = data[0];
    }
}

enum Step {
    Store(u64, u8),
    Load(u64),
    Call(u64),
    Nothing,
    End(End),
    Fault,
    Fail,
}

/// Replays its steps. Running beyond the last one is a mistake in the test.
struct Script {
    steps: std::vec::IntoIter<Step>,
    data: [u8; 1],
    ret: [u64; 2],
    hart: Model,
}

impl Script {
    fn new(steps: Vec<Step>) -> Script {
        Script {
            steps: steps.into_iter(),
            data: [0],
            ret: [u64::MAX - 1, 0],
            hart: Model::default(),
        }
    }
}

impl Vcpu for Script {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        Ok(match self.steps.next().expect("a step is left") {
            Step::Store(address, value) => {
                self.data = [value];
                Exit::MmioWrite(address, &self.data)
            }
            Step::Load(address) => Exit::MmioRead(address, &mut self.data),
            Step::Call(extension) => {
                Exit::Sbi(sbi::Call { extension, function: 0, args: [0; 6], ret: &mut self.ret })
            }
            Step::Nothing => Exit::Interrupted,
            Step::End(end) => Exit::Ended(end),
            Step::Fault => Exit::Fault,
            Step::Fail => return Err(Error::Internal("scripted".to_owned())),
        })
    }

    fn hart(&mut self) -> &mut dyn Hart {
        &mut self.hart
    }

    fn complete_exit(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn forget_kick(&mut self) {}

    fn time(&self) -> Result<u64, Error> {
        Ok(0)
    }

    fn set_time(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

fn play(script: &mut Script, stop: bool) -> Result<Option<End>, Error> {
    let mut bus = Bus::default();
    bus.insert(0x1000, 0x1000, Arc::new(Scratch::default()))
        .unwrap();
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
    };
    let memory =
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0x8000_0000), 0x1000)]).unwrap());
    memory
        .write_slice(&0x0005_2503_u32.to_le_bytes(), GuestAddress(LOAD_A0))
        .unwrap();
    let console = sbi::Console::new(Arc::clone(&memory), null(), null());
    let faults = Faults::new(memory, Budget::default());
    let gate = Gate::new(1);
    if stop {
        gate.stop();
    }
    run(script, &bus, &console, faults, &gate)
}

#[test]
fn a_load_sees_what_was_stored_and_the_end_ends() {
    let steps = vec![
        Step::Store(0x1000, 42),
        Step::Nothing,
        Step::Load(0x1000),
        Step::End(End::PowerOff),
    ];
    let mut script = Script::new(steps);
    let end = play(&mut script, false).unwrap();
    assert!(matches!(end, Some(End::PowerOff)));
    assert_eq!(script.data, [42]);
}

#[test]
fn a_load_from_nowhere_is_zero() {
    let mut script = Script::new(vec![
        Step::Store(0x5000, 1),
        Step::Load(0x5000),
        Step::End(End::Failure),
    ]);
    assert!(matches!(
        play(&mut script, false).unwrap(),
        Some(End::Failure)
    ));
    assert_eq!(script.data, [0]);
}

#[test]
fn a_hart_that_cannot_execute_an_instruction_takes_an_exception() {
    let mut script = Script::new(vec![Step::Fault, Step::End(End::PowerOff)]);
    script.hart.set(Register::Pc, 0xa000_0000).unwrap();
    script.hart.set(Register::Stvec, 0x8000_0000).unwrap();
    let end = play(&mut script, false).unwrap();
    assert!(matches!(end, Some(End::PowerOff)));
    assert_eq!(script.hart.get(Register::Pc).unwrap(), 0x8000_0000);
    assert_eq!(script.hart.get(Register::Scause).unwrap(), 1);
}

#[test]
fn an_access_beyond_the_end_of_ram_is_an_exception() {
    let mut script = Script::new(vec![Step::Load(0x8000_1000), Step::End(End::PowerOff)]);
    script.hart.set(Register::Pc, LOAD_A0).unwrap();
    script.hart.set(Register::X(10), 0x8000_1000).unwrap();
    script.hart.set(Register::Stvec, 0x8000_0100).unwrap();
    play(&mut script, false).unwrap();
    assert_eq!(script.hart.get(Register::Pc).unwrap(), 0x8000_0100);
    assert_eq!(script.hart.get(Register::Scause).unwrap(), 5);
}

#[test]
fn an_unknown_call_keeps_the_answer_that_kvm_put_there() {
    let mut script = Script::new(vec![Step::Call(0x0900_0000), Step::End(End::PowerOff)]);
    play(&mut script, false).unwrap();
    assert_eq!(script.ret, [u64::MAX - 1, 0]);
}

#[test]
fn a_stopped_vcpu_does_not_run() {
    let mut script = Script::new(vec![]);
    assert!(matches!(play(&mut script, true), Ok(None)));
}

#[test]
fn an_error_of_the_hypervisor_comes_through() {
    assert!(play(&mut Script::new(vec![Step::Fail]), false).is_err());
}
