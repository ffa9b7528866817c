//! The gate that the vCPUs of a VM pass on their way into the guest: open, closed for a pause, or closed for good.
//!
//! ```text
//!                pause                        each vCPU: kicked out, its last exit completed, parked
//!     Running ──────────▶ Paused
//!        │    ◀──────────   │                 the last one out reads the guest's clock,
//!        │      resume      │                 the first one in sets it
//!        └──▶ Stopped ◀─────┘                 each vCPU returns
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Vcpu;
use crate::error::Error;
use crate::machine::End;

/// See the module's description.
#[derive(Debug)]
pub struct Gate {
    /// Whether the mode is [`Mode::Running`]: all that is looked at on a normal exit.
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
    /// The guest's `time` when the last vCPU came out, in ticks; taken by the first that goes in.
    time: Option<u64>,
    /// How the guest ended; the first end counts.
    end: Option<Result<End, Error>>,
}

impl Gate {
    /// An open gate for so many vCPUs.
    pub fn new(vcpus: usize) -> Gate {
        let state = State {
            mode: Mode::Running,
            vcpus,
            parked: 0,
            time: None,
            end: None,
        };
        Gate {
            open: AtomicBool::new(true),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// For a vCPU's thread: returns when `vcpu` may enter the guest, false when it must not any more.
    ///
    /// # Errors
    /// The hypervisor's.
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
            // The VM's clock stands only if nobody is inside, and each vCPU loads it on its way in.
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
        // With the lock held: a pause that comes later kicks later, and that kick must not be forgotten.
        vcpu.forget_kick();
        Ok(true)
    }

    /// Closes the gate, brings the vCPUs out by `kick`, and waits until all are parked or the guest ends. False if the gate
    /// was not open.
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

    /// Lets the vCPUs in again after a pause.
    pub fn resume(&self) {
        let mut state = self.lock();
        if state.mode == Mode::Paused {
            self.set(&mut state, Mode::Running);
        }
    }

    /// Closes the gate for good. The caller kicks the vCPUs.
    pub fn stop(&self) {
        self.set(&mut self.lock(), Mode::Stopped);
    }

    /// The guest has ended like this, or cannot go on: no vCPU enters it again.
    pub fn end(&self, end: Result<End, Error>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.set(&mut state, Mode::Stopped);
    }

    /// How the guest ended, once.
    pub fn take_end(&self) -> Option<Result<End, Error>> {
        self.lock().end.take()
    }

    fn set(&self, state: &mut State, mode: Mode) {
        state.mode = mode;
        self.open.store(mode == Mode::Running, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod tests;
