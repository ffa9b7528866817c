//! The counters of a running guest. Each has one writer at a time (a vCPU, or the thread that holds
//! the device), so adding is a load and a store, without a lock. A report reads them meanwhile.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use devices::observe::{DeviceObserver, Event, Figures, HostCall};

use super::clock::{Clock, Ticks};
use super::histogram::{Histogram, add};
use super::report;
use crate::exit::{Exit, Names};

/// The counters of one vCPU.
pub(crate) struct VcpuCounters {
    exits: [AtomicU64; 7],
    registers: Vec<[AtomicU64; 2]>,
    sbi: Vec<AtomicU64>,
}

/// Indices in `exits`.
const MMIO_READ: usize = 0;
const MMIO_WRITE: usize = 1;
const SBI: usize = 2;
const CSR: usize = 3;
const ENDED: usize = 4;
const INTERRUPTED: usize = 5;
const FAULT: usize = 6;

impl VcpuCounters {
    /// One counter for each of `names`.
    pub(super) fn new(names: &Names) -> VcpuCounters {
        VcpuCounters {
            exits: Default::default(),
            registers: names.registers.iter().map(|_| Default::default()).collect(),
            sbi: names.sbi.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Called by the vCPU's thread only.
    pub(crate) fn count(&self, exit: Exit) {
        let kind = match exit {
            Exit::Read(register) => {
                self.access(register, 0);
                MMIO_READ
            }
            Exit::Write(register, _) => {
                self.access(register, 1);
                MMIO_WRITE
            }
            Exit::Sbi(call) => {
                if let Some(counter) = self.sbi.get(call) {
                    add(counter, 1);
                }
                SBI
            }
            Exit::Csr(_) => CSR,
            Exit::Fault => FAULT,
            Exit::Ended => ENDED,
            Exit::Interrupted => INTERRUPTED,
        };
        if let Some(counter) = self.exits.get(kind) {
            add(counter, 1);
        }
    }

    fn access(&self, register: usize, direction: usize) {
        let register = self.registers.get(register);
        if let Some(counter) = register.and_then(|both| both.get(direction)) {
            add(counter, 1);
        }
    }

    pub(super) fn exits(&self) -> report::Vcpu {
        let [mmio_read, mmio_write, sbi, csr, ended, interrupted, fault] =
            self.exits.each_ref().map(|counter| counter.load(Relaxed));
        report::Vcpu { mmio_read, mmio_write, sbi, csr, ended, interrupted, fault }
    }

    /// Loads and stores, by register number.
    pub(super) fn registers(&self) -> impl Iterator<Item = [u64; 2]> {
        let both = |both: &[AtomicU64; 2]| both.each_ref().map(|counter| counter.load(Relaxed));
        self.registers.iter().map(both)
    }

    /// SBI calls, by [`Names::sbi`].
    pub(super) fn sbi(&self) -> impl Iterator<Item = u64> {
        self.sbi.iter().map(|counter| counter.load(Relaxed))
    }
}

/// The counters of one device.
pub(crate) struct DeviceCounters {
    clock: Clock,
    kind: String,
    queues: Vec<QueueCounters>,
    ready: AtomicU64,
    failed: AtomicU64,
    broken: AtomicU64,
    raised: AtomicU64,
    host: HostCounters,
    /// Those of the device since the last reboot, if it has any.
    figures: Mutex<Option<Arc<dyn Figures>>>,
}

struct QueueCounters {
    kicks: AtomicU64,
    requests: AtomicU64,
    from_guest: AtomicU64,
    to_guest: AtomicU64,
    batches: AtomicU64,
    wanted: AtomicU64,
    depth: Histogram,
    latency: Histogram,
    /// The time at which the chain of a head was taken. A ring may be longer than this, but a
    /// device holds at most one chain per queue at a time.
    taken: [AtomicU64; HEADS as usize],
}

const HEADS: u16 = 256;

#[derive(Default)]
struct HostCounters {
    calls: [AtomicU64; 4],
    bytes: [AtomicU64; 2],
    errors: AtomicU64,
    latency: Option<Histogram>,
    /// The time at which the last call began.
    begun: AtomicU64,
}

impl DeviceCounters {
    pub(super) fn new(kind: String, queues: usize, has_file: bool) -> DeviceCounters {
        DeviceCounters {
            clock: Clock::new(),
            kind,
            queues: (0..queues).map(|_| QueueCounters::new()).collect(),
            ready: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            host: HostCounters {
                latency: has_file.then(Histogram::new),
                ..HostCounters::default()
            },
            figures: Mutex::default(),
        }
    }

    fn queue(&self, index: u16, count: impl FnOnce(&QueueCounters)) {
        if let Some(queue) = self.queues.get(usize::from(index)) {
            count(queue);
        }
    }

    /// `wire`: whether its interrupts were counted; `ticks`: the unit of its times.
    pub(super) fn report(&self, name: &str, wire: bool, ticks: Ticks) -> report::Device {
        let queues = self.queues.iter().map(|queue| queue.report(ticks));
        let figures = devices::lock(&self.figures).clone();
        let figures = figures.map(|it| it.figures()).unwrap_or_default();
        report::Device {
            name: name.to_owned(),
            kind: self.kind.clone(),
            queues: queues.collect(),
            ready: self.ready.load(Relaxed),
            failed: self.failed.load(Relaxed),
            broken: self.broken.load(Relaxed),
            interrupts: wire.then(|| self.raised.load(Relaxed)),
            host: self.host.report(ticks),
            figures: figures
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }
}

impl DeviceObserver for DeviceCounters {
    fn figures(&self, figures: Arc<dyn Figures>) {
        *devices::lock(&self.figures) = Some(figures);
    }

    fn see(&self, event: Event) {
        match event {
            Event::Kicked { queue } => {
                self.clock.forget();
                self.queue(queue, |queue| add(&queue.kicks, 1));
            }
            Event::Ready { .. } => {
                self.clock.forget();
                add(&self.ready, 1);
            }
            Event::QueueError => add(&self.broken, 1),
            Event::Failed { .. } => add(&self.failed, 1),
            Event::Popped { queue, head, readable, waiting, .. } => self.queue(queue, |queue| {
                add(&queue.from_guest, readable);
                queue.depth.record(waiting.into());
                queue.taken(head).store(self.clock.taken(), Relaxed);
            }),
            Event::Used { queue, head, written } => self.queue(queue, |queue| {
                add(&queue.requests, 1);
                add(&queue.to_guest, written.into());
                let taken = queue.taken(head).load(Relaxed);
                let now = self.clock.used();
                queue.latency.record(now.saturating_sub(taken));
            }),
            Event::Published { queue, interrupt, .. } => self.queue(queue, |queue| {
                add(&queue.batches, 1);
                add(&queue.wanted, interrupt.into());
            }),
            Event::Host { call, len, .. } => self.host.begin(call, len, self.clock.begins()),
            Event::HostDone { ok } => self.host.done(ok, self.clock.returned()),
            // Any thread may report this.
            Event::Raised => {
                self.raised.fetch_add(1, Relaxed);
            }
            Event::Idle | Event::Descriptor { .. } => {}
        }
    }
}

impl QueueCounters {
    fn new() -> QueueCounters {
        QueueCounters {
            kicks: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            from_guest: AtomicU64::new(0),
            to_guest: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            depth: Histogram::new(),
            latency: Histogram::new(),
            taken: [const { AtomicU64::new(0) }; HEADS as usize],
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the array has HEADS elements")]
    fn taken(&self, head: u16) -> &AtomicU64 {
        &self.taken[usize::from(head % HEADS)]
    }

    fn report(&self, ticks: Ticks) -> report::Queue {
        let (batches, wanted) = (self.batches.load(Relaxed), self.wanted.load(Relaxed));
        report::Queue {
            kicks: self.kicks.load(Relaxed),
            requests: self.requests.load(Relaxed),
            bytes_from_guest: self.from_guest.load(Relaxed),
            bytes_to_guest: self.to_guest.load(Relaxed),
            batches,
            interrupts_wanted: wanted,
            interrupts_suppressed: batches.saturating_sub(wanted),
            depth: self.depth.report(|chains| chains),
            latency: self.latency.report(|time| ticks.nanoseconds(time)),
        }
    }
}

impl HostCounters {
    fn begin(&self, call: HostCall, len: u64, now: u64) {
        let [reads, writes, syncs, forgets] = &self.calls;
        let [read, written] = &self.bytes;
        match call {
            HostCall::Read => {
                add(reads, 1);
                add(read, len);
            }
            HostCall::Write => {
                add(writes, 1);
                add(written, len);
            }
            HostCall::Sync => add(syncs, 1),
            HostCall::Forget => add(forgets, 1),
        }
        self.begun.store(now, Relaxed);
    }

    fn done(&self, ok: bool, now: u64) {
        add(&self.errors, (!ok).into());
        if let Some(latency) = &self.latency {
            latency.record(now.saturating_sub(self.begun.load(Relaxed)));
        }
    }

    fn report(&self, ticks: Ticks) -> Option<report::Host> {
        let [reads, writes, syncs, forgets] = self.calls.each_ref().map(|it| it.load(Relaxed));
        let [bytes_read, bytes_written] = self.bytes.each_ref().map(|it| it.load(Relaxed));
        self.latency.as_ref().map(|latency| report::Host {
            reads,
            writes,
            syncs,
            forgets,
            bytes_read,
            bytes_written,
            errors: self.errors.load(Relaxed),
            latency: latency.report(|time| ticks.nanoseconds(time)),
        })
    }
}
