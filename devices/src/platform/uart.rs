//! A 16550A serial port, as on QEMU's `virt` (data sheet: National Semiconductor PC16550D).
//!
//! ```text
//!            DLAB = 0              DLAB = 1
//!   0   RBR read, THR write        DLL             4  MCR
//!   1   IER                        DLM             5  LSR
//!   2   IIR read, FCR write                        6  MSR
//!   3   LCR, bit 7 is DLAB                         7  SCR
//! ```
//!
//! No vCPU waits here. Output that the host does not accept now goes to a backlog of 64 KiB. When
//! it is full the transmitter is busy, as on a slow line. Once the host has accepted nothing for a
//! second, output is lost. Input stays in its files until the guest reads it. For a guest that
//! polls, LSR shows whether there is input, and only reading RBR consumes it, so a driver that
//! never reads takes nothing from another user of the input. Once the receive interrupt is enabled,
//! a thread waits for input and raises it.
//!
//! vm-superio's `Serial` is not used because it only supports edges (a PLIC's line must fall
//! again), reads its input ahead of the guest, and writes its output while the vCPU waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::eventfd::EventFd;

use crate::irq::IrqLine;
use crate::output::Output;
use crate::platform::bus::BusDevice;
use crate::sync::{event, lock};

mod thread;

/// Bytes of the register area, as on QEMU's `virt`. Only the first 8 are registers.
pub const SIZE: u64 = 0x100;

/// Input clock in hertz, for the device tree. Nothing depends on it, as bytes take no time.
pub const CLOCK: u32 = 3_686_400;

/// Receive FIFO in bytes (§ 8.4 of the data sheet).
const FIFO: usize = 16;

/// Backlog in bytes at which the transmitter is busy.
const BACKLOG: usize = 1 << 16;

/// The largest backlog. A guest that ignores the busy transmitter loses further output.
const BACKLOG_MAX: usize = 2 * BACKLOG;

mod register {
    pub(super) const DATA: u64 = 0;
    pub(super) const IER: u64 = 1;
    pub(super) const IIR_FCR: u64 = 2;
    pub(super) const LCR: u64 = 3;
    pub(super) const MCR: u64 = 4;
    pub(super) const LSR: u64 = 5;
    pub(super) const MSR: u64 = 6;
    pub(super) const SCR: u64 = 7;
}

/// Interrupt enable.
mod ier {
    pub(super) const RECEIVED: u8 = 1;
    pub(super) const TRANSMITTER_EMPTY: u8 = 2;
    pub(super) const ALL: u8 = 0x0f;
}

/// Interrupt identification. The two upper bits are set if the FIFOs are enabled.
mod iir {
    pub(super) const NONE: u8 = 1;
    pub(super) const TRANSMITTER_EMPTY: u8 = 2;
    pub(super) const RECEIVED: u8 = 4;
    pub(super) const FIFOS: u8 = 0xc0;
}

/// FIFO control.
mod fcr {
    pub(super) const ENABLE: u8 = 1;
    pub(super) const CLEAR_RECEIVED: u8 = 2;
}

const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;

/// Line status.
mod lsr {
    pub(super) const DATA_READY: u8 = 1;
    /// Transmitter holding register empty, and transmitter empty.
    pub(super) const EMPTY: u8 = 0x60;
}

/// Modem status: clear to send, data set ready, ring, carrier.
mod msr {
    pub(super) const CTS: u8 = 0x10;
    pub(super) const DSR: u8 = 0x20;
    pub(super) const RI: u8 = 0x40;
    pub(super) const DCD: u8 = 0x80;
}

/// The serial port.
pub struct Uart {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    line: Box<dyn IrqLine>,
    /// Makes the thread check the state again.
    wake: EventFd,
    stop: AtomicBool,
    /// Whether the guest has enabled the receive interrupt, for other users of the input.
    listening: Arc<AtomicBool>,
}

struct State {
    inputs: Vec<Input>,
    output: Output,
    received: VecDeque<u8>,
    backlog: VecDeque<u8>,
    ier: u8,
    fifos: bool,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    /// The transmitter became empty, and the guest has not seen that in IIR (§ 8.5).
    became_empty: bool,
    /// The level to which the line was last driven.
    high: bool,
    /// The guest has sent something.
    sent: bool,
}

struct Input {
    file: File,
    ended: bool,
}

impl Uart {
    /// A serial port that writes to `output` and reads `inputs`, all of them nonblocking. The
    /// second input is read only while the first has none. `listening` is a flag that the port sets
    /// while the guest has the receive interrupt enabled.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    pub fn new(
        inputs: Vec<File>,
        output: impl Into<Output>,
        listening: Arc<AtomicBool>,
        line: Box<dyn IrqLine>,
    ) -> io::Result<Uart> {
        let inputs = inputs.into_iter().map(|file| Input { file, ended: false });
        listening.store(false, Ordering::SeqCst);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                inputs: inputs.collect(),
                output: output.into(),
                received: VecDeque::new(),
                backlog: VecDeque::new(),
                ier: 0,
                fifos: false,
                lcr: 0,
                mcr: 0,
                scr: 0,
                divisor: [12, 0],
                became_empty: false,
                high: false,
                sent: false,
            }),
            line,
            wake: event()?,
            stop: AtomicBool::new(false),
            listening,
        });
        let served = Arc::clone(&shared);
        let thread = Builder::new()
            .name("uart".to_owned())
            .spawn(move || thread::serve(&served))?;
        Ok(Uart { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Whether the guest has sent anything.
    pub fn has_sent(&self) -> bool {
        self.shared.state().sent
    }

    /// Ends the port's thread. The backlog is written first, if the host accepts it within
    /// [`WRITE_TIMEOUT`](crate::output::WRITE_TIMEOUT).
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // The panic hook has reported any panic.
            let _ = thread.join();
        }
        self.shared.listening.store(false, Ordering::SeqCst);
    }
}

impl Drop for Uart {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wake(&self) {
        // Fails only when 2^64 are outstanding: one is enough.
        let _ = self.wake.write(1);
    }

    /// An access by the guest. Afterwards this updates the line, and wakes the thread if the port
    /// waits for something new, whichever register caused that.
    fn access<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let waited = state.wants_input();
        let result = access(&mut state);
        self.drive(&mut state);
        let listening = state.is_listening();
        let changed = self.listening.swap(listening, Ordering::SeqCst) != listening;
        if changed || !waited && state.wants_input() || !state.backlog.is_empty() {
            self.wake();
        }
        result
    }

    /// Updates the line. Only changes are driven: each rise of an edge-triggered line is an
    /// interrupt.
    fn drive(&self, state: &mut State) {
        let high = state.interrupt() != iir::NONE;
        if high != state.high {
            state.high = high;
            self.line.set(high);
        }
    }
}

impl State {
    /// The interrupt of the highest priority (§ 8.5).
    fn interrupt(&self) -> u8 {
        if self.ier & ier::RECEIVED != 0 && !self.received.is_empty() {
            iir::RECEIVED
        } else if self.ier & ier::TRANSMITTER_EMPTY != 0 && self.became_empty {
            iir::TRANSMITTER_EMPTY
        } else {
            iir::NONE
        }
    }

    fn is_listening(&self) -> bool {
        self.ier & ier::RECEIVED != 0
    }

    /// In loop mode the receiver is disconnected from the outside (§ 8.7).
    fn is_looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// Whether the thread reads input as soon as there is some.
    fn wants_input(&self) -> bool {
        self.is_listening() && self.received.is_empty() && !self.is_looped()
    }

    fn is_busy(&self) -> bool {
        self.backlog.len() >= BACKLOG
    }

    /// Reads input into the FIFO, if that is empty.
    fn fill(&mut self) {
        let mut bytes = [0; FIFO];
        for input in &mut self.inputs {
            if self.received.is_empty() && !input.ended {
                match input.file.read(&mut bytes) {
                    Ok(0) => input.ended = true,
                    Ok(count) => self.received.extend(bytes.iter().take(count)),
                    Err(error) => input.ended = !is_temporary(&error),
                }
            }
        }
    }

    /// Writes as much of the backlog as the host accepts.
    fn flush(&mut self) {
        let busy = self.is_busy();
        while !self.backlog.is_empty() {
            let (bytes, _) = self.backlog.as_slices();
            let Some(count) = self.output.write(bytes) else {
                break;
            };
            self.backlog.drain(..count);
        }
        self.became_empty |= busy && !self.is_busy();
    }

    fn send(&mut self, byte: u8) {
        if self.is_looped() {
            if self.received.len() < FIFO {
                self.received.push_back(byte);
            }
        } else if self.backlog.len() < BACKLOG_MAX {
            self.sent = true;
            self.backlog.push_back(byte);
            self.flush();
        } else {
            self.output.lost().add(1);
        }
        self.became_empty = !self.is_busy();
    }

    fn line_status(&mut self) -> u8 {
        if self.wants_input() {
            self.fill();
        }
        let waiting = || !self.is_looped() && thread::is_readable(&self.inputs);
        let ready = !self.received.is_empty() || waiting();
        let data = if ready { lsr::DATA_READY } else { 0 };
        let empty = if self.is_busy() { 0 } else { lsr::EMPTY };
        data | empty
    }

    /// In loop mode the modem outputs are its inputs (§ 8.7). Otherwise a terminal is always
    /// connected.
    fn modem_status(&self) -> u8 {
        if !self.is_looped() {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        // DTR, RTS, OUT1, OUT2.
        let wires = [(1, msr::DSR), (2, msr::CTS), (4, msr::RI), (8, msr::DCD)];
        let high = wires
            .into_iter()
            .filter(|(output, _)| self.mcr & output != 0);
        high.fold(0, |status, (_, input)| status | input)
    }

    fn read(&mut self, offset: u64) -> u8 {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            register::DATA if latch => self.divisor[0],
            register::IER if latch => self.divisor[1],
            register::DATA => {
                if self.received.is_empty() && !self.is_looped() {
                    self.fill();
                }
                self.received.pop_front().unwrap_or(0)
            }
            register::IER => self.ier,
            register::IIR_FCR => {
                let interrupt = self.interrupt();
                if interrupt == iir::TRANSMITTER_EMPTY {
                    self.became_empty = false;
                }
                interrupt | if self.fifos { iir::FIFOS } else { 0 }
            }
            register::LCR => self.lcr,
            register::MCR => self.mcr,
            register::LSR => self.line_status(),
            register::MSR => self.modem_status(),
            register::SCR => self.scr,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            register::DATA if latch => self.divisor[0] = value,
            register::IER if latch => self.divisor[1] = value,
            register::DATA => self.send(value),
            register::IER => {
                let added = value & !self.ier;
                self.ier = value & ier::ALL;
                // Enabling this interrupt while the transmitter is empty raises it.
                self.became_empty |= added & ier::TRANSMITTER_EMPTY != 0 && !self.is_busy();
            }
            register::IIR_FCR => {
                self.fifos = value & fcr::ENABLE != 0;
                if value & fcr::CLEAR_RECEIVED != 0 {
                    self.received.clear();
                }
            }
            register::LCR => self.lcr = value,
            register::MCR => self.mcr = value & 0x1f,
            register::SCR => self.scr = value,
            _ => {}
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Accesses of another width than a byte have no effect.
impl BusDevice for Uart {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let [data] = data {
            *data = self.shared.access(|state| state.read(offset));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [value] = *data {
            self.shared.access(|state| state.write(offset, value));
        }
    }
}

#[cfg(test)]
#[path = "uart_test.rs"]
mod tests;
