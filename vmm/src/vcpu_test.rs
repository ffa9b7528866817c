use std::fs::File;
use std::sync::{Arc, Mutex};

use devices::platform::bus::BusDevice;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;

/// One register that remembers.
#[derive(Default)]
struct Register(Mutex<u8>);

impl BusDevice for Register {
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
    Fail,
}

/// Plays its steps; a run beyond the last is a test's mistake.
struct Script {
    steps: std::vec::IntoIter<Step>,
    data: [u8; 1],
    ret: [u64; 2],
}

impl Script {
    fn new(steps: Vec<Step>) -> Script {
        Script {
            steps: steps.into_iter(),
            data: [0],
            ret: [u64::MAX - 1, 0],
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
            Step::Call(extension) => Exit::Sbi(sbi::Call {
                extension,
                function: 0,
                args: [0; 6],
                ret: &mut self.ret,
            }),
            Step::Nothing => Exit::Interrupted,
            Step::End(end) => Exit::Ended(end),
            Step::Fail => return Err(Error::Internal("scripted".to_owned())),
        })
    }
}

fn play(script: &mut Script, stop: bool) -> Result<Option<End>, Error> {
    let mut bus = Bus::default();
    bus.insert(0x1000, 0x1000, Arc::new(Register::default()))
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
    let console = sbi::Console::new(memory, null(), null());
    run(script, &bus, &console, &AtomicBool::new(stop))
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
