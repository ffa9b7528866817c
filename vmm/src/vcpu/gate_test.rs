use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::{self, JoinHandle};

use devices::platform::bus::Bus;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::hart::Hart;
use crate::hart::fault::{Budget, Faults};
use crate::hart::model::Model;
use crate::sbi;
use crate::vcpu::{self, Exit};

const VCPUS: usize = 3;

/// State shared by the vCPUs of a VM.
#[derive(Default)]
struct Host {
    time: AtomicU64,
    inside: AtomicUsize,
    entries: AtomicU64,
    /// Every value that the clock was set to.
    set: Mutex<Vec<u64>>,
    kicks: [AtomicBool; VCPUS],
    /// The vCPU with this number powers off.
    ends: Mutex<Option<usize>>,
}

impl Host {
    fn kick(&self) {
        self.kicks
            .iter()
            .for_each(|kick| kick.store(true, Ordering::SeqCst));
    }
}

/// Stays in the guest until it is kicked, like a busy guest. Each round advances the time by a
/// tick.
struct Busy(Arc<Host>, usize, Model);

impl Vcpu for Busy {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        let Busy(host, id, _) = self;
        host.inside.fetch_add(1, Ordering::SeqCst);
        host.entries.fetch_add(1, Ordering::SeqCst);
        let mut ended = false;
        while !ended && !host.kicks[*id].load(Ordering::SeqCst) {
            host.time.fetch_add(1, Ordering::SeqCst);
            ended = *host.ends.lock().unwrap() == Some(*id);
            thread::yield_now();
        }
        host.inside.fetch_sub(1, Ordering::SeqCst);
        Ok(match ended {
            true => Exit::Ended(End::PowerOff),
            false => Exit::Interrupted,
        })
    }

    fn hart(&mut self) -> &mut dyn Hart {
        &mut self.2
    }

    fn complete_exit(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn forget_kick(&mut self) {
        self.0.kicks[self.1].store(false, Ordering::SeqCst);
    }

    fn time(&self) -> Result<u64, Error> {
        assert_eq!(self.0.inside.load(Ordering::SeqCst), 0, "read too early");
        Ok(self.0.time.load(Ordering::SeqCst))
    }

    fn set_time(&mut self, ticks: u64) -> Result<(), Error> {
        assert_eq!(self.0.inside.load(Ordering::SeqCst), 0, "set too late");
        self.0.time.store(ticks, Ordering::SeqCst);
        self.0.set.lock().unwrap().push(ticks);
        Ok(())
    }
}

fn start(host: &Arc<Host>, gate: &Arc<Gate>) -> Vec<JoinHandle<Option<End>>> {
    let run = |id| {
        let (mut vcpu, gate) = (
            Busy(Arc::clone(host), id, Model::default()),
            Arc::clone(gate),
        );
        thread::spawn(move || {
            let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
            let null = || std::fs::File::open("/dev/null").unwrap();
            let ram = Arc::new(ram);
            let faults = Faults::new(Arc::clone(&ram), Budget::default());
            let console = sbi::Console::new(ram, null(), null());
            let end = vcpu::run(&mut vcpu, &Bus::default(), &console, faults, &gate).unwrap();
            if let Some(end) = end {
                gate.end(Ok(end));
            }
            end
        })
    };
    (0..VCPUS).map(run).collect()
}

fn stop(host: &Host, gate: &Gate, threads: Vec<JoinHandle<Option<End>>>) {
    gate.stop();
    host.kick();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), None);
    }
}

#[test]
fn a_pause_stops_all_vcpus_and_the_clock_goes_on_where_it_stood() {
    let (host, gate) = (Arc::new(Host::default()), Arc::new(Gate::new(VCPUS)));
    let threads = start(&host, &gate);
    let mut stood = Vec::new();
    for _ in 0..200 {
        gate.pause(|| host.kick());
        let entries = host.entries.load(Ordering::SeqCst);
        assert_eq!(host.inside.load(Ordering::SeqCst), 0);
        // The host's time continues.
        stood.push(host.time.fetch_add(1_000_000, Ordering::SeqCst));
        gate.resume();
        while host.entries.load(Ordering::SeqCst) == entries {
            thread::yield_now();
        }
    }
    assert_eq!(*host.set.lock().unwrap(), stood);
    stop(&host, &gate, threads);
}

/// The vCPUs may still sleep when the next pause starts.
#[test]
fn pauses_in_quick_succession_lose_no_vcpu_and_no_time() {
    let (host, gate) = (Arc::new(Host::default()), Arc::new(Gate::new(VCPUS)));
    let threads = start(&host, &gate);
    for _ in 0..2000 {
        gate.pause(|| host.kick());
        assert_eq!(host.inside.load(Ordering::SeqCst), 0);
        host.time.fetch_add(1 << 40, Ordering::SeqCst);
        gate.resume();
    }
    gate.pause(|| host.kick());
    gate.resume();
    while host.inside.load(Ordering::SeqCst) != VCPUS {
        thread::yield_now();
    }
    assert!(host.time.load(Ordering::SeqCst) < 1 << 40, "time jumped");
    stop(&host, &gate, threads);
}

#[test]
fn a_paused_vm_can_be_stopped() {
    let (host, gate) = (Arc::new(Host::default()), Arc::new(Gate::new(VCPUS)));
    let threads = start(&host, &gate);
    gate.pause(|| host.kick());
    stop(&host, &gate, threads);
    assert!(host.set.lock().unwrap().is_empty());
}

#[test]
fn a_pause_does_not_wait_for_a_guest_that_has_ended() {
    let (host, gate) = (Arc::new(Host::default()), Arc::new(Gate::new(VCPUS)));
    let threads = start(&host, &gate);
    *host.ends.lock().unwrap() = Some(1);
    while !threads[1].is_finished() {
        thread::yield_now();
    }
    gate.pause(|| host.kick());
    gate.resume();
    assert!(matches!(gate.take_end(), Some(Ok(End::PowerOff))));
    host.kick();
    let ends: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!(ends, [None, Some(End::PowerOff), None]);
}

#[test]
fn the_first_end_counts() {
    let gate = Gate::new(1);
    gate.end(Ok(End::Reboot));
    gate.end(Ok(End::PowerOff));
    assert!(matches!(gate.take_end(), Some(Ok(End::Reboot))));
    assert!(gate.take_end().is_none());
}
