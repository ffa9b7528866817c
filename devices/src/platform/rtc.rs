//! The goldfish real-time clock, as on QEMU's `virt`: nanoseconds since 1970, UTC, and one alarm.
//!
//! ```text
//!   0x00 TIME_LOW      reading it latches TIME_HIGH      0x10 IRQ_ENABLED      bit 0
//!   0x04 TIME_HIGH     writing HIGH, then LOW sets       0x14 CLEAR_ALARM
//!   0x08 ALARM_LOW     writing HIGH, then LOW arms       0x18 ALARM_STATUS     1 while armed
//!   0x0c ALARM_HIGH                                      0x1c CLEAR_INTERRUPT
//! ```
//!
//! When the guest sets the clock, the offset to the host's clock is kept until the machine
//! restarts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::error;

use crate::irq::IrqLine;
use crate::platform::bus::BusDevice;
use crate::sync::lock;

/// Bytes of the register area.
pub const SIZE: u64 = 0x1000;

mod register {
    pub(super) const TIME_LOW: u64 = 0x00;
    pub(super) const TIME_HIGH: u64 = 0x04;
    pub(super) const ALARM_LOW: u64 = 0x08;
    pub(super) const ALARM_HIGH: u64 = 0x0c;
    pub(super) const IRQ_ENABLED: u64 = 0x10;
    pub(super) const CLEAR_ALARM: u64 = 0x14;
    pub(super) const ALARM_STATUS: u64 = 0x18;
    pub(super) const CLEAR_INTERRUPT: u64 = 0x1c;
}

/// The longest wait of the alarm's thread. The host's clock may be set, and the wait does not
/// follow that.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The clock.
pub struct Rtc {
    shared: Arc<Shared>,
    /// The alarm's thread, started when the alarm is first armed: few guests do that.
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when the alarm changes or the clock is dropped.
    changed: Condvar,
    line: Box<dyn IrqLine>,
}

#[derive(Default)]
struct State {
    /// The guest's time minus the host's, in nanoseconds, modulo 2^64.
    offset: u64,
    time_high: u32,
    alarm_high: u32,
    alarm: u64,
    armed: bool,
    pending: bool,
    enabled: bool,
    /// The clock is dropped: the thread must end.
    ended: bool,
    /// The level to which the line was last driven.
    high: bool,
}

impl Rtc {
    /// A clock with the host's time. `line`, which must be low, is its interrupt.
    pub fn new(line: Box<dyn IrqLine>) -> Rtc {
        Rtc {
            shared: Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), line }),
            thread: Mutex::default(),
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let mut state = self.shared.state();
        match offset {
            register::TIME_LOW => {
                let now = state.now();
                state.time_high = high(now);
                low(now)
            }
            register::TIME_HIGH => state.time_high,
            register::ALARM_LOW => low(state.alarm),
            register::ALARM_HIGH => high(state.alarm),
            register::IRQ_ENABLED => state.enabled.into(),
            register::ALARM_STATUS => state.armed.into(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        let mut state = self.shared.state();
        match offset {
            register::TIME_LOW => {
                let time = u64::from(state.time_high) << 32 | u64::from(value);
                state.offset = time.wrapping_sub(host());
            }
            register::TIME_HIGH => state.time_high = value,
            register::ALARM_LOW => {
                state.alarm = u64::from(state.alarm_high) << 32 | u64::from(value);
                state.armed = true;
            }
            register::ALARM_HIGH => state.alarm_high = value,
            register::IRQ_ENABLED => state.enabled = value & 1 != 0,
            register::CLEAR_ALARM => state.armed = false,
            register::CLEAR_INTERRUPT => state.pending = false,
            _ => return,
        }
        self.shared.update(&mut state);
        let armed = state.armed;
        drop(state);
        if armed {
            self.start_thread();
        }
        self.shared.changed.notify_one();
    }

    /// Starts the thread that waits for the alarm, unless it runs already.
    fn start_thread(&self) {
        let mut thread = lock(&self.thread);
        if thread.is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started = Builder::new()
            .name("rtc".to_owned())
            .spawn(move || wait(&shared));
        match started {
            Ok(handle) => *thread = Some(handle),
            Err(error) => error!("rtc: cannot start the alarm's thread: {error}"),
        }
    }
}

/// Waits for the thread, so that nothing drives the line afterwards.
impl Drop for Rtc {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // The panic hook has reported any panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Fires the alarm if it is due, and drives the line.
    fn update(&self, state: &mut State) {
        if state.armed && state.alarm <= state.now() {
            state.armed = false;
            state.pending = true;
        }
        let high = state.pending && state.enabled;
        // Only changes are driven: each rise of an edge-triggered line is an interrupt.
        if high != state.high {
            state.high = high;
            self.line.set(high);
        }
    }
}

fn wait(shared: &Shared) {
    let mut state = shared.state();
    while !state.ended {
        let left = state.alarm.saturating_sub(state.now());
        let left = match state.armed {
            true => Duration::from_nanos(left).min(WAIT_MAX),
            false => WAIT_MAX,
        };
        let waited = shared.changed.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        shared.update(&mut state);
    }
}

impl State {
    /// The guest's time in nanoseconds.
    fn now(&self) -> u64 {
        host().wrapping_add(self.offset)
    }
}

/// The host's time in nanoseconds since 1970. 64 bits are enough until 2554.
fn host() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

#[cfg(test)]
#[path = "rtc_test.rs"]
mod tests;
