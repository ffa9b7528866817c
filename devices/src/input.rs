//! The input device (§ 5.8) with a single key: the machine's power key. The host presses it to ask
//! the guest to power off.
//!
//! ```text
//!   PowerKey::press ── eventfd ──▶ device's thread ──▶ queue 0: EV_KEY 1, EV_SYN, EV_KEY 0, EV_SYN
//!   driver: LEDs and the like ───────────────────────▶ queue 1: returned unread
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::signal::Signal;
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

/// Entries of each queue, as in QEMU. Linux fills the event queue with buffers of one event.
const QUEUE_SIZE: u16 = 64;

/// The queue of events for the driver (§ 5.8.2). The other one is the status queue.
const EVENTS: usize = 0;

/// Event types and codes of Linux's evdev interface (§ 5.8.6 refers to it):
/// linux/input-event-codes.h.
mod evdev {
    pub(super) const EV_SYN: u16 = 0;
    pub(super) const EV_KEY: u16 = 1;
    pub(super) const KEY_POWER: u16 = 116;
    /// Devices without a bus in hardware.
    pub(super) const BUS_VIRTUAL: u16 = 6;
}

/// Values of `select` (§ 5.8.4).
mod select {
    pub(super) const ID_NAME: u8 = 0x01;
    pub(super) const ID_SERIAL: u8 = 0x02;
    pub(super) const ID_DEVIDS: u8 = 0x03;
    pub(super) const EV_BITS: u8 = 0x11;
}

const NAME: &[u8] = b"Power Button";
const SERIAL: &[u8] = b"power";

/// A press and a release, each with its report: type, code, value.
const PRESS: [(u16, u16, u32); 4] = [
    (evdev::EV_KEY, evdev::KEY_POWER, 1),
    (evdev::EV_SYN, 0, 0),
    (evdev::EV_KEY, evdev::KEY_POWER, 0),
    (evdev::EV_SYN, 0, 0),
];

/// The host's side of the key.
#[derive(Debug)]
pub struct PowerKey {
    /// Whether a driver waits for events: it has made a buffer available.
    awaited: AtomicBool,
    pressed: AtomicBool,
    changed: Signal,
}

impl PowerKey {
    /// Presses and releases the key. Returns false, without an effect, if no driver waits for it.
    /// Whether a program in the guest acts on it cannot be known.
    pub fn press(&self) -> bool {
        let awaited = self.awaited.load(Ordering::SeqCst);
        if awaited {
            self.pressed.store(true, Ordering::SeqCst);
            self.changed.raise();
        }
        awaited
    }
}

/// An input device with a power key.
#[derive(Debug)]
pub struct Input {
    key: Arc<PowerKey>,
    config: Arc<Config>,
    /// Events of one press at most, for which the driver has provided no buffer yet.
    pending: VecDeque<(u16, u16, u32)>,
}

impl Input {
    /// A device whose key is not pressed.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new() -> io::Result<Input> {
        let changed = Signal::new()?;
        let key =
            PowerKey { awaited: AtomicBool::default(), pressed: AtomicBool::default(), changed };
        Ok(Input { key: Arc::new(key), config: Arc::default(), pending: VecDeque::new() })
    }

    /// Its key, for the host.
    pub fn key(&self) -> Arc<PowerKey> {
        Arc::clone(&self.key)
    }

    /// Writes one event per buffer. A buffer that is too short for an event is returned empty.
    fn send(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(EVENTS) else {
            return Ok(());
        };
        let (key, pending) = (&self.key, &mut self.pending);
        queue.drain(|chain| {
            let Some((kind, code, value)) = pending.front().copied() else {
                // The queue stalls on this buffer until there is an event.
                key.awaited.store(true, Ordering::SeqCst);
                return None;
            };
            let event = [
                &kind.to_le_bytes()[..],
                &code.to_le_bytes(),
                &value.to_le_bytes(),
            ]
            .concat();
            if chain.writable().len() < event.len() as u64 {
                return Some(0);
            }
            pending.pop_front();
            // 8 bytes.
            Some(u32::try_from(chain.writable().write(&event)).unwrap_or(0))
        })
    }

    /// The driver's buffers are gone.
    fn forget(&mut self) {
        self.key.awaited.store(false, Ordering::SeqCst);
        self.key.pressed.store(false, Ordering::SeqCst);
        self.pending.clear();
    }
}

impl VirtioDevice for Input {
    fn id(&self) -> DeviceId {
        DeviceId::Input
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.config.clone()
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match (index, queues.get(index)) {
            (EVENTS, _) => self.send(queues),
            (_, Some(status)) => status.drain(|_| Some(0)),
            (_, None) => Ok(()),
        }
    }

    /// Serving them is quick and rare, and an ioeventfd would cost more.
    fn inline_notify(&self, _index: usize) -> bool {
        true
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![(self.key.changed.as_fd(), Ready::Read)]
    }

    fn handle_event(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        if self.key.pressed.swap(false, Ordering::SeqCst) && self.pending.is_empty() {
            self.pending.extend(PRESS);
        }
        self.send(queues)
    }

    fn queue_reset(&mut self, index: usize) {
        if index == EVENTS {
            self.forget();
        }
    }

    fn reset(&mut self) {
        self.forget();
        self.config.select.store(0, Ordering::SeqCst);
        self.config.subsel.store(0, Ordering::SeqCst);
    }
}

/// Offsets of the configuration space's fields (§ 5.8.4): select, subsel, size, 5 reserved bytes,
/// and what the driver has selected.
const SUBSEL: usize = 1;
const SIZE: usize = 2;
const DATA: usize = 8;
const DATA_MAX: usize = 128;

/// The configuration space: the driver selects a property, and reads its size and value.
#[derive(Debug, Default)]
struct Config {
    select: AtomicU8,
    subsel: AtomicU8,
}

impl Config {
    /// The selected property; empty if the device does not have it.
    fn selected(&self) -> Vec<u8> {
        let subsel = self.subsel.load(Ordering::SeqCst);
        match (self.select.load(Ordering::SeqCst), subsel) {
            (select::ID_NAME, 0) => NAME.to_vec(),
            (select::ID_SERIAL, 0) => SERIAL.to_vec(),
            // bustype, vendor, product, version: 16 bits each.
            (select::ID_DEVIDS, 0) => {
                let mut ids = evdev::BUS_VIRTUAL.to_le_bytes().to_vec();
                ids.resize(8, 0);
                ids
            }
            // A bitmap of codes. Bits of EV_SYN are not reported (§ 5.8.4).
            (select::EV_BITS, subsel) if u16::from(subsel) == evdev::EV_KEY => {
                let (byte, bit) = (usize::from(evdev::KEY_POWER / 8), evdev::KEY_POWER % 8);
                let mut bits = vec![0; byte];
                bits.push(1 << bit);
                bits
            }
            _ => Vec::new(),
        }
    }
}

impl ConfigSpace for Config {
    fn len(&self) -> usize {
        DATA + DATA_MAX
    }

    fn read(&self, offset: usize, data: &mut [u8]) {
        let value = self.selected();
        let mut fields = vec![0; DATA];
        let bytes = [
            (0, self.select.load(Ordering::SeqCst)),
            (SUBSEL, self.subsel.load(Ordering::SeqCst)),
            // No more than DATA_MAX.
            (SIZE, u8::try_from(value.len()).unwrap_or(0)),
        ];
        for (at, byte) in bytes {
            if let Some(field) = fields.get_mut(at) {
                *field = byte;
            }
        }
        fields.extend(value);
        fields.read(offset, data);
    }

    /// Only select and subsel can be written.
    fn write(&self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..offset.saturating_add(data.len())).zip(data) {
            match at {
                0 => self.select.store(*byte, Ordering::SeqCst),
                SUBSEL => self.subsel.store(*byte, Ordering::SeqCst),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "input_test.rs"]
mod tests;
