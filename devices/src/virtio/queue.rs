//! The split virtqueue, device side (§ 2.7).
//!
//! ```text
//!   descriptor table            driver area (available)        device area (used)
//!   ┌──────┬─────┬─────┬────┐   ┌───────┬─────┬──────┬───────┐  ┌───────┬─────┬──────────┬───────┐
//!   │ addr │ len │flags│next│×N │ flags │ idx │head×N│used_  │  │ flags │ idx │(id,len)×N│avail_ │
//!   └──────┴─────┴─────┴────┘   │       │     │      │  event│  │       │     │          │  event│
//!                               └───────┴─────┴──────┴───────┘  └───────┴─────┴──────────┴───────┘
//!   the driver writes           the driver writes               we write
//! ```
//!
//! What the driver is still setting up is a [`QueueConfig`]; what runs is a [`Queue`], whose size and addresses are
//! frozen and whose rings were translated to host memory once. A transport turns the one into the other.
//!
//! Every value read from the rings is the guest's: each is loaded once, checked against the frozen size, and an
//! impossible one is [`QueueError`].

use std::sync::Arc;

use super::chain::{Buffers, Chain};
use super::descriptor::{self, Table};
use super::stop::Stop;
use super::{Notify, QueueError};
use crate::memory::{Memory, RingWord, RingWords};
use crate::observe::rings::{FLAGS, IDX, RING, View};
use crate::observe::{DESCRIPTORS_MAX, DeviceObserver, Event, QueueObserver};
use crate::spec::features;
use crate::sync::{AtomicU16, AtomicU32, Ordering, fence};

mod drain;

/// The ring features that every queue of ours has.
pub const FEATURES: u64 = features::RING_INDIRECT_DESC | features::RING_EVENT_IDX;

/// The largest ring there is (§ 2.7).
pub const SIZE_MAX: u16 = 32768;

/// How many descriptors a chain may have where the ring itself is smaller: an indirect table may be longer than the
/// ring (drivers do that), but not without bound.
const CHAIN_MAX: u32 = 1024;

const RING_OFFSET: u64 = 4;

/// `avail.flags`: the driver does not want interrupts. `used.flags`: we do not want notifications.
const NO_NOTIFICATION: u16 = 1;

/// A queue as the driver sets it up, register by register or message by message.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// The largest size that the device offers.
    pub max: u16,
    /// The size that the driver chose, in descriptors.
    pub size: u16,
    /// Whether the driver enabled it. Nothing else may change while it is.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the driver area.
    pub driver: u64,
    /// Guest address of the device area.
    pub device: u64,
    /// The available index to go on from, where another ran the queue before; the used index to go on from is then what
    /// stands in the ring. `None` for a new queue, which begins with 0 and 0.
    pub resume: Option<u16>,
}

impl QueueConfig {
    /// A queue after reset, offering `max` descriptors.
    pub fn new(max: u16) -> Self {
        QueueConfig {
            max,
            size: max,
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            resume: None,
        }
    }

    /// The running queue: all addresses checked and translated, for good.
    ///
    /// # Errors
    /// The size, an alignment or an address is not allowed.
    pub fn activate(
        &self,
        memory: &Memory,
        negotiated: u64,
        notify: Arc<dyn Notify>,
    ) -> Result<Queue, QueueError> {
        let &QueueConfig { max, size, .. } = self;
        if !size.is_power_of_two() || size > max.min(SIZE_MAX) {
            return Err(QueueError::Size { size, max });
        }
        let n = usize::from(size);
        let table = area(
            memory,
            "descriptor table",
            self.descriptors,
            descriptor::SIZE.into(),
            n,
        )?;
        let driver = area(memory, "driver area", self.driver, 2, RING + n + 1)?;
        let device: RingWords<AtomicU16> =
            area(memory, "device area", self.device, 4, RING + 4 * n + 1)?;
        // No overflow: the whole device area, checked above, is RAM.
        let used = area(memory, "device area", self.device + RING_OFFSET, 4, n)?;
        let next_used = match self.resume {
            Some(_) => device.load(IDX, Ordering::Relaxed),
            None => 0,
        };
        Ok(Queue {
            table: Table {
                entries: table,
                size,
                indirect: match negotiated & features::RING_INDIRECT_DESC {
                    0 => 0,
                    _ => CHAIN_MAX.max(size.into()),
                },
                memory: memory.clone(),
            },
            driver,
            device,
            used,
            memory: memory.clone(),
            size,
            event_idx: negotiated & features::RING_EVENT_IDX != 0,
            next_available: self.resume.unwrap_or(0),
            waiting: 0,
            next_used,
            published: next_used,
            stalled: None,
            unfinished: false,
            stride: 1,
            spare: Vec::new(),
            notify,
            index: 0,
            stop: Stop::default(),
            observer: None,
        })
    }
}

/// A running queue.
pub struct Queue {
    table: Table,
    /// flags, idx, heads, used_event.
    driver: RingWords<AtomicU16>,
    /// flags, idx, (elements), avail_event.
    device: RingWords<AtomicU16>,
    /// The device area's elements: id, length.
    used: RingWords<[AtomicU32; 2]>,
    memory: Memory,
    size: u16,
    event_idx: bool,
    next_available: u16,
    /// Chains that were available behind the one popped last.
    waiting: u16,
    next_used: u16,
    /// The used index that the driver can see.
    published: u16,
    /// The chain that could not be served to its end.
    stalled: Option<Chain>,
    unfinished: bool,
    /// Chains from one look at the clock to the next: more, the quicker they are served.
    stride: u8,
    #[expect(
        clippy::vec_box,
        reason = "chains move about: a pointer is cheaper than two vectors"
    )]
    spare: Vec<Box<Buffers>>,
    notify: Arc<dyn Notify>,
    /// Which of its device's queues it is.
    index: u16,
    stop: Stop,
    observer: Option<QueueObserver>,
}

impl Queue {
    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The available index that is to be served next: where another may [`resume`](QueueConfig::resume) the queue.
    pub fn next_available(&self) -> u16 {
        // A chain that is held back has not been served.
        self.next_available
            .wrapping_sub(u16::from(self.stalled.is_some()))
    }

    /// The next chain that the driver made available, or `None`.
    ///
    /// # Errors
    /// The ring or the chain is broken.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        // Acquire, with the driver's barrier before its store of the index (§ 2.7.13.3): the head and the descriptors that
        // it stands for, and what is in their buffers, are loaded after it. Their loads so may be relaxed.
        let idx = self.driver.load(IDX, Ordering::Acquire);
        let next = self.next_available;
        let available = idx.wrapping_sub(next);
        if available == 0 {
            return Ok(None);
        }
        if available > self.size {
            let size = self.size;
            return Err(QueueError::AvailableIndex { idx, next, size });
        }
        let head = self.driver.load(RING + self.slot(next), Ordering::Relaxed);
        let mut buffers = self
            .spare
            .pop()
            .unwrap_or_else(|| Box::new(Buffers::new(&self.memory)));
        buffers.clear();
        let descriptors = self.table.collect(head, &mut buffers)?;
        self.next_available = next.wrapping_add(1);
        self.waiting = available - 1;
        let mut chain = Chain { head, buffers };
        if let Some(observer) = &self.observer {
            tell_popped(observer, &self.table, &mut chain, descriptors, available);
        }
        Ok(Some(chain))
    }

    /// Returns a chain to the driver, into whose writable buffers `written` bytes were written. The driver sees it after
    /// the next [`notify`](Self::notify).
    pub fn push(&mut self, chain: Chain, written: u32) {
        // Relaxed: nobody looks at an element before `notify` stores the index behind it, and says that it was written.
        let element = [u32::from(chain.head), written];
        self.used
            .put(self.slot(self.next_used), element, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        self.spare.push(chain.buffers);
        if let Some(observer) = &self.observer {
            tell_used(observer, chain.head, written);
        }
    }

    /// Publishes what was pushed, and interrupts the driver if it wants that. Once a batch.
    pub fn notify(&mut self) {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return;
        }
        // Release, with the driver's barrier after its load of the index (§ 2.7.14): the elements, and the data in the
        // buffers, are visible before it (§ 2.7.8.2). A system call that wrote data has done so when it returns.
        self.device.store(IDX, new, Ordering::Release);
        self.used
            .wrote(self.slot(old), usize::from(new.wrapping_sub(old)));
        self.published = new;
        // The driver stores its wish (avail.flags or used_event), and then looks at used.idx for the last time before it
        // sleeps (§ 2.7.14); we store used.idx, and then look at the wish. A store before a load of another word is what
        // acquire and release leave open: without a full barrier here and there both loads could be the older, we would
        // not interrupt, and the driver would sleep (§ 2.7.7.2).
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = RING + usize::from(self.size);
            passed(self.driver.load(event, Ordering::Relaxed), old, new)
        } else {
            self.driver.load(FLAGS, Ordering::Relaxed) & NO_NOTIFICATION == 0
        };
        if let Some(observer) = &self.observer {
            tell_published(observer, old, new, wanted);
        }
        if wanted {
            self.notify.used(self.index);
        }
    }

    /// Asks the driver not to notify us: we are looking anyway. Only a hint.
    pub fn suppress_kicks(&mut self) {
        // Relaxed: a kick too many is borne. With EVENT_IDX the flags stay 0 (§ 2.7.10): the index we asked for last lies
        // behind, which does the same.
        if !self.event_idx {
            self.device.store(FLAGS, NO_NOTIFICATION, Ordering::Relaxed);
        }
    }

    /// Asks the driver to notify us of the next chain. True if one came before it could have known: look again.
    pub fn allow_kicks(&mut self) -> bool {
        if self.event_idx {
            let avail_event = RING + 4 * usize::from(self.size);
            self.device
                .store(avail_event, self.next_available, Ordering::Relaxed);
        } else {
            self.device.store(FLAGS, 0, Ordering::Relaxed);
        }
        // As in `notify`, with the roles exchanged: the driver stores avail.idx and then looks at our wish (§ 2.7.13.4);
        // we store the wish, with the fence behind it, and then look at avail.idx for the last time before we sleep. The
        // load may be relaxed, as nothing is read by it: `pop` loads the index again.
        fence(Ordering::SeqCst);
        self.driver.load(IDX, Ordering::Relaxed) != self.next_available
    }

    /// Its three areas, to be looked at by any thread, at any time.
    pub(crate) fn view(&self) -> View {
        View {
            table: self.table.entries.clone(),
            driver: self.driver.clone(),
            device: self.device.clone(),
            used: self.used.clone(),
            memory: self.memory.clone(),
            size: self.size,
            event_idx: self.event_idx,
        }
    }

    /// Which of its device's queues it is.
    pub(super) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Has [`drain`](Self::drain) leave the queue unfinished while `stop` is set.
    pub(super) fn set_stop(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// Lets `observer` know what happens here, unless somebody does already.
    pub(crate) fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        self.observer.get_or_insert_with(|| QueueObserver {
            observer: Arc::clone(observer),
            queue: self.index,
            descriptors: observer.wants_descriptors(),
        });
    }

    /// Where in a ring the entry of an index lies. The size is a power of two.
    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index) & (usize::from(self.size) - 1)
    }

    /// Whether [`drain`](Self::drain) left chains behind that it could have served: call it again.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }
}

// What is reported to an observer. Cold and apart, so that without one the way past is a branch and nothing that the
// events hold is kept for them.

/// A chain was taken.
#[cold]
#[inline(never)]
fn tell_popped(
    observer: &QueueObserver,
    table: &Table,
    chain: &mut Chain,
    descriptors: u32,
    waiting: u16,
) {
    let event = Event::Popped {
        queue: observer.queue,
        head: chain.head,
        descriptors,
        readable: chain.readable().len(),
        writable: chain.writable().len(),
        waiting,
    };
    if observer.descriptors {
        return tell_descriptors(observer, table, chain.head, event);
    }
    observer.observer.see(event);
}

/// The same, with its descriptors. They are loaded once more for that: what a driver changed meanwhile, against the rules, is told as it
/// is now; what the device does with them does not depend on it.
#[inline(never)]
fn tell_descriptors(observer: &QueueObserver, table: &Table, head: u16, popped: Event) {
    observer.observer.see(popped);
    table.follow(head, DESCRIPTORS_MAX, |index, descriptor| {
        observer.observer.see(Event::Descriptor {
            index,
            address: descriptor.address,
            len: descriptor.len,
            flags: descriptor.flags,
        });
    });
}

/// A chain was put into the used ring.
#[cold]
#[inline(never)]
fn tell_used(observer: &QueueObserver, head: u16, written: u32) {
    observer.observer.see(Event::Used {
        queue: observer.queue,
        head,
        written,
    });
}

/// The used index went from `old` to `new`.
#[cold]
#[inline(never)]
fn tell_published(observer: &QueueObserver, old: u16, new: u16, interrupt: bool) {
    observer.observer.see(Event::Published {
        queue: observer.queue,
        index: new,
        count: new.wrapping_sub(old),
        interrupt,
    });
}

/// Part of a ring: `count` words at `address`, which must be a multiple of `align`.
fn area<T: RingWord>(
    memory: &Memory,
    area: &'static str,
    address: u64,
    align: u64,
    count: usize,
) -> Result<RingWords<T>, QueueError> {
    address
        .is_multiple_of(align)
        .then(|| memory.words(address, count))
        .flatten()
        .ok_or(QueueError::Area { area, address })
}

/// Whether an index that went from `old` to `new` has passed `event`: § 2.7.10's vring_need_event.
fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "queue_test.rs"]
mod tests;

#[cfg(test)]
#[cfg(loom)]
#[path = "queue_loom.rs"]
mod interleavings;
