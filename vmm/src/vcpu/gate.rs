//! The gate that each vCPU of a VM passes before it enters the guest: open, closed for a pause, or
//! closed for good.
//!
//! ```text
//!                pause               each vCPU: kicked out, its last exit completed, parked
//!     Running ──────────▶ Paused
//!        │    ◀──────────   │        the last one out reads the guest's clock,
//!        │      resume      │        the first one in sets it
//!        └──▶ Stopped ◀─────┘        each vCPU returns
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Vcpu;
use crate::error::Error;
use crate::machine::End;

/// See the module documentation.
#[derive(Debug)]
pub struct Gate {
    /// Whether the mode is [`Mode::Running`]. The exit path reads nothing else.
    open: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Paused,
    Stopped,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    vcpus: usize,
    parked: usize,
    /// The guest's `time` in ticks when the last vCPU parked. The first vCPU to resume takes it.
    time: Option<u64>,
    /// How the guest ended. The first end wins.
    end: Option<Result<End, Error>>,
}

impl Gate {
    /// An open gate for `vcpus` vCPUs.
    pub fn new(vcpus: usize) -> Gate {
        let state = State { mode: Mode::Running, vcpus, parked: 0, time: None, end: None };
        Gate { open: AtomicBool::new(true), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Called by a vCPU's thread. Blocks during a pause; returns true when `vcpu` may enter the
    /// guest, false if the gate is closed for good.
    ///
    /// # Errors
    /// The hypervisor refused to complete the exit, or to read or set the clock.
    pub fn pass(&self, vcpu: &mut impl Vcpu) -> Result<bool, Error> {
        if self.open.load(Ordering::SeqCst) {
            return Ok(true);
        }
        self.park(vcpu)
    }

    #[cold]
    fn park(&self, vcpu: &mut impl Vcpu) -> Result<bool, Error> {
        vcpu.complete_exit()?;
        let mut state = self.lock();
        state.parked += 1;
        if state.mode == Mode::Paused && state.parked == state.vcpus {
            // The clock can stand still only when no vCPU is inside: each one loads it on entry.
            state.time = Some(vcpu.time()?);
            self.changed.notify_all();
        }
        while state.mode == Mode::Paused {
            state = self.wait(state);
        }
        state.parked -= 1;
        if state.mode == Mode::Stopped {
            return Ok(false);
        }
        if let Some(time) = state.time.take() {
            vcpu.set_time(time)?;
        }
        // Under the lock: the kick of a later pause comes after this and is not cleared.
        vcpu.forget_kick();
        Ok(true)
    }

    /// Closes the gate, kicks the vCPUs by `kick`, and waits until all are parked or the guest
    /// ends. Returns false if the gate was not open.
    pub fn pause(&self, kick: impl FnOnce()) -> bool {
        let mut state = self.lock();
        if state.mode != Mode::Running {
            return false;
        }
        self.set(&mut state, Mode::Paused);
        drop(state);
        kick();
        let mut state = self.lock();
        while state.mode == Mode::Paused && state.parked < state.vcpus {
            state = self.wait(state);
        }
        true
    }

    /// Opens the gate after a pause.
    pub fn resume(&self) {
        let mut state = self.lock();
        if state.mode == Mode::Paused {
            self.set(&mut state, Mode::Running);
        }
    }

    /// Closes the gate for good. The caller has to kick the vCPUs.
    pub fn stop(&self) {
        self.set(&mut self.lock(), Mode::Stopped);
    }

    /// Records how the guest ended, or why it cannot continue, and closes the gate for good.
    pub fn end(&self, end: Result<End, Error>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.set(&mut state, Mode::Stopped);
    }

    /// Takes the end of the guest, if it has ended.
    pub fn take_end(&self) -> Option<Result<End, Error>> {
        self.lock().end.take()
    }

    fn set(&self, state: &mut State, mode: Mode) {
        state.mode = mode;
        self.open.store(mode == Mode::Running, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        devices::lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod tests;
