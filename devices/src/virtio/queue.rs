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
//! A [`QueueConfig`] is what the driver sets up. A transport activates it, which makes a [`Queue`]:
//! its size and addresses are frozen, and its rings are translated to host memory once.
//!
//! Every value in the rings comes from the guest. Each is loaded once and checked against the
//! frozen size; an invalid one is a [`QueueError`].

use std::collections::VecDeque;
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

pub use drain::{Group, Step};

/// The ring features of every queue.
pub const FEATURES: u64 = features::RING_INDIRECT_DESC | features::RING_EVENT_IDX;

/// The largest ring size (§ 2.7).
pub const SIZE_MAX: u16 = 32768;

/// The most descriptors of a chain if the ring is smaller. An indirect table may be longer than the
/// ring, which drivers use, but needs a bound.
const CHAIN_MAX: u32 = 1024;

const RING_OFFSET: u64 = 4;

/// `avail.flags`: the driver does not want interrupts. `used.flags`: we do not want notifications.
const NO_NOTIFICATION: u16 = 1;

/// A queue as the driver sets it up, register by register or message by message.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// The maximum size that the device offers.
    pub max: u16,
    /// The size that the driver chose, in descriptors.
    pub size: u16,
    /// Whether the driver enabled the queue. The other fields are frozen while it is enabled.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the driver area.
    pub driver: u64,
    /// Guest address of the device area.
    pub device: u64,
    /// The available index at which to resume a queue that ran before. The used index is then read
    /// from the ring. `None` for a new queue: both start at 0.
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

    /// Activates the queue: checks and translates all addresses, once.
    ///
    /// # Errors
    /// The size, an alignment or an address is invalid.
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
        // Does not overflow: the device area is RAM, as checked above.
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
            ahead: VecDeque::new(),
            group: Vec::new(),
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
    /// Chains that were available after the last one popped.
    waiting: u16,
    next_used: u16,
    /// The used index that the driver can see.
    published: u16,
    /// Chains that are to be served next: the one on which the queue stalled, and those that were
    /// taken ahead.
    ahead: VecDeque<Chain>,
    /// The chains of a group that is not done, and the bytes written to each.
    group: Vec<(Chain, u32)>,
    unfinished: bool,
    /// Chains per read of the clock: more if they are served faster.
    stride: u8,
    #[expect(
        clippy::vec_box,
        reason = "chains are moved: a pointer is cheaper than two vectors"
    )]
    spare: Vec<Box<Buffers>>,
    notify: Arc<dyn Notify>,
    /// Its index among the device's queues.
    index: u16,
    stop: Stop,
    observer: Option<QueueObserver>,
}

impl Queue {
    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The available index of the next chain to serve, at which the queue may be
    /// [resumed](QueueConfig::resume).
    pub fn next_available(&self) -> u16 {
        // These chains have not been served, nor has a group that is not done. They are not longer
        // than the ring.
        let held = self.group.len() + self.ahead.len();
        let held = u16::try_from(held).unwrap_or(self.size);
        self.next_available.wrapping_sub(held)
    }

    /// Takes the next available chain; `None` if there is none.
    ///
    /// # Errors
    /// The ring or the chain is invalid.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        // Acquire pairs with the driver's barrier before its store of the index (§ 2.7.13.3): the
        // head, the descriptors and the contents of the buffers are loaded after the index. So
        // those loads may be relaxed.
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
            report_popped(observer, &self.table, &mut chain, descriptors, available);
        }
        Ok(Some(chain))
    }

    /// Returns a chain to the driver, with `written` bytes in its writable buffers. The driver sees
    /// it after the next [`notify`](Self::notify).
    pub fn push(&mut self, chain: Chain, written: u32) {
        // Relaxed: the driver reads an element only after `notify` has stored the index. `notify`
        // also records the write for dirty tracking.
        let element = [u32::from(chain.head), written];
        self.used
            .put(self.slot(self.next_used), element, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        self.spare.push(chain.buffers);
        if let Some(observer) = &self.observer {
            report_used(observer, chain.head, written);
        }
    }

    /// Publishes the chains that were pushed, and interrupts the driver if it wants that. Called
    /// once per batch.
    pub fn notify(&mut self) {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return;
        }
        // Release pairs with the driver's barrier after its load of the index (§ 2.7.14): the
        // elements and the data in the buffers are visible before it (§ 2.7.8.2). A system call has
        // written its data when it returns.
        self.device.store(IDX, new, Ordering::Release);
        self.used
            .mark_dirty(self.slot(old), usize::from(new.wrapping_sub(old)));
        self.published = new;
        // The driver enables interrupts (avail.flags or used_event), then loads used.idx for the
        // last time before it sleeps (§ 2.7.14). We store used.idx, then load avail.flags or
        // used_event. Acquire and release do not order a store before a load of another word:
        // without a full barrier on both sides, both loads could return the old value. We would not
        // interrupt, and the driver would sleep (§ 2.7.7.2).
        fence(Ordering::SeqCst);
        let interrupt = if self.event_idx {
            let event = RING + usize::from(self.size);
            passed(self.driver.load(event, Ordering::Relaxed), old, new)
        } else {
            self.driver.load(FLAGS, Ordering::Relaxed) & NO_NOTIFICATION == 0
        };
        if let Some(observer) = &self.observer {
            report_published(observer, old, new, interrupt);
        }
        if interrupt {
            self.notify.used(self.index);
        }
    }

    /// Asks the driver not to notify us while we poll the ring. This is only a hint.
    pub fn suppress_kicks(&mut self) {
        // Relaxed: an extra kick does no harm. With EVENT_IDX the flags stay 0 (§ 2.7.10): the last
        // avail_event is already passed, which suppresses kicks too.
        if !self.event_idx {
            self.device.store(FLAGS, NO_NOTIFICATION, Ordering::Relaxed);
        }
    }

    /// Asks the driver to notify us of the next chain. Returns true if a chain came before the
    /// driver could see that: the caller must look again.
    pub fn allow_kicks(&mut self) -> bool {
        if self.event_idx {
            let avail_event = RING + 4 * usize::from(self.size);
            self.device
                .store(avail_event, self.next_available, Ordering::Relaxed);
        } else {
            self.device.store(FLAGS, 0, Ordering::Relaxed);
        }
        // As in `notify`, with the roles swapped: the driver stores avail.idx, then loads
        // used.flags or avail_event (§ 2.7.13.4). We store that word, and after the fence load
        // avail.idx for the last time before we sleep. This load may be relaxed, as `pop` loads the
        // index again.
        fence(Ordering::SeqCst);
        self.driver.load(IDX, Ordering::Relaxed) != self.next_available
    }

    /// A view of the three areas, for any thread at any time.
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

    /// Sets its index among the device's queues.
    pub(super) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Makes [`drain`](Self::drain) leave the queue unfinished while `stop` is set.
    pub(super) fn set_stop(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// Attaches `observer`, unless there is one already.
    pub(crate) fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        self.observer.get_or_insert_with(|| QueueObserver {
            observer: Arc::clone(observer),
            queue: self.index,
            descriptors: observer.wants_descriptors(),
        });
    }

    /// The slot of an index in a ring. The size is a power of two.
    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index) & (usize::from(self.size) - 1)
    }

    /// Whether [`drain`](Self::drain) left chains that it could have served: call it again.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }
}

// Reports to an observer. These are cold and not inlined, so that without an observer the cost is
// one branch, and no register holds a value only for an event.

/// Reports that a chain was taken.
#[cold]
#[inline(never)]
fn report_popped(
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
        return report_descriptors(observer, table, chain.head, event);
    }
    observer.observer.see(event);
}

/// Reports that a chain was taken, with its descriptors. They are loaded a second time: if the
/// driver has changed them meanwhile, against the rules, the report has the new values. The device
/// does not use these.
#[inline(never)]
fn report_descriptors(observer: &QueueObserver, table: &Table, head: u16, popped: Event) {
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

/// Reports that a chain was written to the used ring.
#[cold]
#[inline(never)]
fn report_used(observer: &QueueObserver, head: u16, written: u32) {
    observer
        .observer
        .see(Event::Used { queue: observer.queue, head, written });
}

/// Reports that the used index went from `old` to `new`.
#[cold]
#[inline(never)]
fn report_published(observer: &QueueObserver, old: u16, new: u16, interrupt: bool) {
    observer.observer.see(Event::Published {
        queue: observer.queue,
        index: new,
        count: new.wrapping_sub(old),
        interrupt,
    });
}

/// An area of the ring: `count` words at `address`, which must be a multiple of `align`.
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
