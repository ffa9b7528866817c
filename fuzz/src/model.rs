//! A second split queue (§ 2.7), as simple as possible: no atomics, no translation, no state except
//! indices.
//!
//! It shares no code with `devices`. A difference between the two is a bug in one of them.

use std::collections::VecDeque;

use crate::ram::Ram;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Most descriptors of an indirect table, if the ring is smaller.
const CHAIN_MAX: u64 = 1024;

/// The addresses of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Rings {
    /// Descriptors.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub table: u64,
    /// Guest address of the driver area.
    pub driver: u64,
    /// Guest address of the device area.
    pub device: u64,
}

impl Rings {
    /// Whether a device that offers `max` descriptors can use them.
    pub fn are_usable(&self, max: u16) -> bool {
        let size = u64::from(self.size);
        let part = |address: u64, align, len| {
            address.is_multiple_of(align) && crate::ram::is_ram(address, len)
        };
        self.size.is_power_of_two()
            && self.size <= max
            && part(self.table, 16, 16 * size)
            && part(self.driver, 2, 6 + 2 * size)
            && part(self.device, 4, 6 + 8 * size)
    }
}

/// The ring is invalid.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueError;

/// One direction of a chain: ranges of guest memory, consumed from the front.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    ranges: VecDeque<(u64, u64)>,
    last: Option<u64>,
}

impl Stream {
    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(_, len)| len).sum()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn add(&mut self, address: u64, len: u64) {
        if len > 0 {
            self.ranges.push_back((address, len));
        }
    }

    /// Consumes up to `count` bytes, and returns their ranges.
    pub fn take(&mut self, mut count: u64) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        while count > 0
            && let Some((address, len)) = self.ranges.pop_front()
        {
            let here = len.min(count);
            taken.push((address, here));
            count -= here;
            if here < len {
                self.ranges.push_front((address + here, len - here));
            }
        }
        taken
    }

    /// Consumes up to `count` bytes, and returns them.
    pub fn read(&mut self, ram: &Ram, count: u64) -> Vec<u8> {
        let pieces = self.take(count);
        let pieces = pieces.into_iter().filter_map(|(at, len)| ram.get(at, len));
        pieces.flatten().copied().collect()
    }

    /// Fills from the front; returns the number of bytes that fit.
    pub fn write(&mut self, ram: &mut Ram, mut bytes: &[u8]) -> usize {
        let pieces = self.take(bytes.len() as u64);
        let room = pieces.iter().map(|(_, len)| *len as usize).sum();
        for (address, len) in pieces {
            let (here, rest) = bytes.split_at(len as usize);
            ram.put(address, here);
            bytes = rest;
        }
        room
    }

    /// Reserves the last byte.
    pub fn split_last(&mut self) -> bool {
        self.last = None;
        let Some((address, len)) = self.ranges.pop_back() else {
            return false;
        };
        self.add(address, len - 1);
        self.last = Some(address + len - 1);
        true
    }

    /// The address of the reserved byte, once.
    pub fn last(&mut self) -> Option<u64> {
        self.last.take()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its first descriptor.
    pub head: u16,
    /// The bytes that the device may read.
    pub readable: Stream,
    /// The bytes that it may write.
    pub writable: Stream,
}

impl Chain {
    /// The device reports that it wrote this many bytes: the model accepts their content, and
    /// returns them.
    pub fn accept(mut self, ram: &mut Ram, written: u64) -> Vec<u8> {
        let room = self.writable.len();
        assert!(written <= room, "{written} bytes written to {room}");
        let mut bytes = Vec::new();
        for (address, len) in self.writable.take(written) {
            ram.accept(address, len as usize);
            bytes.extend_from_slice(ram.get(address, len).unwrap_or_default());
        }
        bytes
    }
}

/// A queue in use.
#[derive(Debug)]
pub struct Model {
    rings: Rings,
    event_idx: bool,
    indirect: bool,
    next_available: u16,
    next_used: u16,
    published: u16,
    /// Chains that were available after the last one was taken.
    waiting: u16,
    held: Option<Chain>,
    /// Chains were left unserved.
    pub unfinished: bool,
    /// How often the driver must have been interrupted.
    pub interrupts: u32,
}

impl Model {
    /// A new queue.
    pub fn new(rings: Rings, event_idx: bool, indirect: bool) -> Model {
        Model {
            rings,
            event_idx,
            indirect,
            next_available: 0,
            next_used: 0,
            published: 0,
            waiting: 0,
            held: None,
            unfinished: false,
            interrupts: 0,
        }
    }

    /// The next chain.
    pub fn pop(&mut self, ram: &Ram) -> Result<Option<Chain>, QueueError> {
        let driver = self.rings.driver;
        let ahead = word(ram, driver + 2).wrapping_sub(self.next_available);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.rings.size {
            return Err(QueueError);
        }
        let slot = u64::from(self.next_available % self.rings.size);
        let head = word(ram, driver + 4 + 2 * slot);
        let chain = self.walk(ram, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.waiting = ahead - 1;
        Ok(Some(chain))
    }

    fn walk(&self, ram: &Ram, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, readable: Stream::default(), writable: Stream::default() };
        let (mut table, mut size) = (self.rings.table, u64::from(self.rings.size));
        let (mut steps, mut nested) = (size, false);
        let mut index = head;
        while steps > 0 {
            steps -= 1;
            if u64::from(index) >= size {
                return Err(QueueError);
            }
            let at = table.checked_add(16 * u64::from(index)).ok_or(QueueError)?;
            let bytes = ram.get(at, 16).ok_or(QueueError)?;
            let field = |from: usize, len: usize| {
                let bytes = bytes[from..from + len].iter().rev();
                bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
            };
            let (address, len) = (field(0, 8), field(8, 4));
            let (flags, next) = (field(12, 2) as u16, field(14, 2) as u16);
            if flags & INDIRECT != 0 {
                if nested || !self.indirect || flags & NEXT != 0 || len == 0 || len % 16 != 0 {
                    return Err(QueueError);
                }
                nested = true;
                (table, size, index) = (address, len / 16, 0);
                steps = size.min(CHAIN_MAX.max(self.rings.size.into()));
                continue;
            }
            if len > 0 && !crate::ram::is_ram(address, len) {
                return Err(QueueError);
            }
            if flags & WRITE != 0 {
                chain.writable.add(address, len);
            } else if chain.writable.is_empty() {
                chain.readable.add(address, len);
            } else {
                return Err(QueueError);
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(QueueError)
    }

    /// Returns a chain.
    pub fn push(&mut self, ram: &mut Ram, head: u16, written: u32) {
        let slot = u64::from(self.next_used % self.rings.size);
        let element = self.rings.device + 4 + 8 * slot;
        ram.put(element, &u32::from(head).to_le_bytes());
        ram.put(element + 4, &written.to_le_bytes());
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Publishes the returned chains.
    pub fn notify(&mut self, ram: &mut Ram) {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return;
        }
        ram.put(self.rings.device + 2, &new.to_le_bytes());
        self.published = new;
        let wanted = if self.event_idx {
            let event = word(ram, self.rings.driver + 4 + 2 * u64::from(self.rings.size));
            let passed = new.wrapping_sub(old);
            (0..passed).any(|count| old.wrapping_add(count) == event)
        } else {
            word(ram, self.rings.driver) & 1 == 0
        };
        self.interrupts += u32::from(wanted);
    }

    /// Suppresses kicks.
    pub fn suppress_kicks(&mut self, ram: &mut Ram) {
        if !self.event_idx {
            ram.put(self.rings.device, &1_u16.to_le_bytes());
        }
    }

    /// Allows kicks. Returns whether a chain is already available.
    pub fn allow_kicks(&mut self, ram: &mut Ram) -> bool {
        if self.event_idx {
            let at = self.rings.device + 4 + 8 * u64::from(self.rings.size);
            ram.put(at, &self.next_available.to_le_bytes());
        } else {
            ram.put(self.rings.device, &0_u16.to_le_bytes());
        }
        word(ram, self.rings.driver + 2) != self.next_available
    }

    /// Serves the available chains, as documented for [`devices::virtio::queue::Queue::drain`]. The
    /// first time that a chain is not alone, what was pushed before is published. The time stands
    /// still here, so nothing else is published before the end of the batch.
    pub fn drain(
        &mut self,
        ram: &mut Ram,
        mut serve: impl FnMut(&mut Ram, &mut Chain) -> Option<u32>,
    ) -> Result<(), QueueError> {
        self.unfinished = false;
        let mut budget = self.rings.size;
        let mut promised = false;
        loop {
            let before = budget;
            let mut alone = true;
            self.suppress_kicks(ram);
            while budget > 0 {
                let next = match self.held.take() {
                    Some(chain) => Some(chain),
                    None => self.pop(ram).inspect_err(|_| self.notify(ram))?,
                };
                let Some(mut chain) = next else { break };
                if alone && (self.waiting > 0 || self.next_used != self.published) {
                    self.notify(ram);
                    alone = false;
                }
                match serve(ram, &mut chain) {
                    Some(written) => self.push(ram, chain.head, written),
                    None => {
                        self.held = Some(chain);
                        self.notify(ram);
                        return Ok(());
                    }
                }
                budget -= 1;
            }
            self.notify(ram);
            if !self.allow_kicks(ram) {
                return Ok(());
            }
            if budget == 0 {
                self.unfinished = true;
                return Ok(());
            }
            if std::mem::replace(&mut promised, true) && budget == before {
                return Ok(());
            }
        }
    }
}

/// A word of a ring, which has been checked to be RAM.
fn word(ram: &Ram, address: u64) -> u16 {
    ram.u16(address).expect("the rings are RAM")
}
