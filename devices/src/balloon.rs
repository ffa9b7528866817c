//! The memory balloon (§ 5.5): pages that the driver does not use go back to the host.
//!
//! ```text
//!   host: Target::set ── num_pages, configuration change ──▶ driver
//!   driver ── queue 0: numbers of pages it gave up ──▶ discarded, then used
//!   driver ── queue 1: numbers of pages it takes back ──▶ used
//!   driver ── queue 2: statistics ──▶ kept until the host asks; a used buffer asks for new ones
//!   driver ── queue 3: free pages themselves, as buffers ──▶ discarded, then used
//! ```
//! A page that was given back reads as zeroes, and the host allocates it again once it is written.
//! So nothing is kept about the pages in the balloon: a driver may name any page, at any time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use log::info;

use crate::memory::{Memory, Readable};
use crate::observe::{DeviceObserver, Figures};
use crate::signal::Signal;
use crate::sync::lock;
use crate::virtio::QueueError;
use crate::virtio::{ConfigSpace, DeviceId, Queues, Ready, VirtioDevice};

/// Entries of each queue, as in QEMU. Linux reports up to 32 ranges in one buffer.
const QUEUE_SIZE: u16 = 128;

/// The queues (§ 5.5.2) that are always there, and that of the statistics.
const INFLATE: usize = 0;
const STATISTICS: usize = 2;

/// Bytes per page in numbers of pages, whatever the size of the guest's pages is (§ 5.5.6).
pub const PAGE: u64 = 4096;

/// The most pages that are given back per buffer; further ones stay as they are. This bounds the
/// time of a request, and so of a reset. Linux names 256.
const PAGES_MAX: usize = 4096;

/// Feature bits (§ 5.5.3).
pub mod feature {
    /// There is a queue for statistics.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver may take pages back when it has no other memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// There is a queue for reports of free pages.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// The host's side of the balloon, and its configuration space.
#[derive(Debug)]
pub struct Target {
    /// The pages that the driver should give up.
    num_pages: AtomicU32,
    /// The pages that it says it has given up.
    actual: AtomicU32,
    /// Bytes that went back to the host so far, by both ways.
    given_back: AtomicU64,
    /// Whether the guest took pages back that the host wants. It is logged once per target.
    took_back: AtomicBool,
    /// Whether the host wants new statistics.
    wanted: AtomicBool,
    /// What the guest sent last.
    statistics: Mutex<Statistics>,
    changed: Signal,
}

impl Target {
    /// Sets the number of bytes that the driver should give up, rounded down to whole pages.
    /// Returns whether it changed. The caller then notifies the driver, by
    /// [`Mmio::config_changed`](crate::transport::mmio::Mmio::config_changed).
    pub fn set(&self, bytes: u64) -> bool {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        let changed = self.num_pages.swap(pages, Ordering::SeqCst) != pages;
        if changed {
            self.took_back.store(false, Ordering::SeqCst);
        }
        changed
    }

    /// Makes the device log the guest's statistics, once the driver has sent new ones.
    pub fn request_statistics(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        self.changed.raise();
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |pages: &AtomicU32| (u64::from(pages.load(Ordering::SeqCst)) * PAGE) >> 20;
        let (target, actual) = (mib(&self.num_pages), mib(&self.actual));
        let given_back = self.given_back.load(Ordering::Relaxed) >> 20;
        write!(
            out,
            "target {target} MiB, actual {actual} MiB, given back so far {given_back} MiB"
        )
    }
}

/// A memory balloon.
#[derive(Debug)]
pub struct Balloon {
    target: Arc<Target>,
    /// Feature bits that are offered.
    offered: u64,
    /// Feature bits that the driver accepted.
    accepted: u64,
    /// Where its pages are, once there is a driver.
    memory: Option<Memory>,
    /// Whether the next statistics are an answer.
    asked: bool,
}

impl Balloon {
    /// A balloon whose driver should give up nothing yet. `offered` are bits of [`feature`].
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(offered: u64) -> io::Result<Balloon> {
        let target = Target {
            num_pages: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            given_back: AtomicU64::new(0),
            took_back: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            statistics: Mutex::default(),
            changed: Signal::new()?,
        };
        let target = Arc::new(target);
        Ok(Balloon { target, offered, accepted: 0, memory: None, asked: false })
    }

    /// Its side for the host.
    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }

    fn has(&self, feature: u64) -> bool {
        self.accepted & feature != 0
    }
}

/// Discards the pages whose numbers are in `pages`, adjacent ones at once. Pages that are not RAM
/// are ignored. Returns the number of bytes that went back to the host.
fn discard(memory: &Memory, pages: &mut Readable) -> u64 {
    let mut bytes = 0;
    // The first page of a run and its length.
    let mut run = (0_u64, 0_u64);
    let mut end_run = |(first, count): (u64, u64)| {
        bytes += memory.discard(first * PAGE, count * PAGE);
    };
    for _ in 0..PAGES_MAX {
        let Some(page) = pages.take().map(u32::from_le_bytes).map(u64::from) else {
            break;
        };
        run = match run {
            (first, count) if page == first + count => (first, count + 1),
            (first, count) if page + 1 == first => (page, count + 1),
            ended => {
                end_run(ended);
                (page, 1)
            }
        };
    }
    end_run(run);
    bytes
}

/// The statistics by their tags (§ 5.5.6.4): their names in reports and in the log, and by how much
/// they are divided there. Those in bytes are logged in MiB.
const STATISTIC: [(&str, &str, u64); 10] = [
    ("swapped_in_bytes", "MiB swapped in", 1 << 20),
    ("swapped_out_bytes", "MiB swapped out", 1 << 20),
    ("major_faults", "major faults", 1),
    ("minor_faults", "minor faults", 1),
    ("free_bytes", "MiB free", 1 << 20),
    ("total_bytes", "MiB in all", 1 << 20),
    ("available_bytes", "MiB available", 1 << 20),
    ("caches_bytes", "MiB of caches", 1 << 20),
    ("huge_pages_allocated", "huge pages allocated", 1),
    ("huge_pages_failed", "huge pages failed", 1),
];

/// Their values, of those that the guest has sent.
type Statistics = [Option<u64>; STATISTIC.len()];

/// The most entries that are read: more than there are tags.
const ENTRIES_MAX: usize = 64;

/// Parses the statistics in a buffer; `None` if it has none. Unknown tags are ignored.
fn statistics(buffer: &mut Readable) -> Option<Statistics> {
    let mut values = None;
    for _ in 0..ENTRIES_MAX {
        let Some([a, b, value @ ..]) = buffer.take::<10>() else {
            break;
        };
        let values: &mut Statistics = values.get_or_insert_default();
        if let Some(place) = values.get_mut(usize::from(u16::from_le_bytes([a, b]))) {
            *place = Some(u64::from_le_bytes(value));
        }
    }
    values
}

/// Formats them for the log.
fn text(values: &Statistics) -> String {
    let all = STATISTIC.iter().zip(values);
    let known = all.filter_map(|((_, name, unit), value)| Some((name, (*value)? / unit)));
    known
        .map(|(name, value)| format!(" {value} {name};"))
        .collect()
}

impl VirtioDevice for Balloon {
    fn id(&self) -> DeviceId {
        DeviceId::Balloon
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 5]
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.target()
    }

    fn activate(&mut self, features: u64, memory: &Memory) {
        self.accepted = features;
        self.memory = Some(memory.clone());
    }

    /// The text counts the queue of a feature that is not negotiated (§ 5.5.2), which Linux does
    /// not: by it, reports are queue 4, in Linux 3, or 2 without statistics. So each queue behind
    /// the first ones is for reports, unless it is that of the statistics.
    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        let has_statistics = index == STATISTICS && self.has(feature::STATS_VQ);
        let reports = index >= STATISTICS && self.has(feature::PAGE_REPORTING);
        let Some(queue) = queues.get(index) else {
            return Ok(());
        };
        let target = &self.target;
        let give_back = |bytes| _ = target.given_back.fetch_add(bytes, Ordering::Relaxed);
        if has_statistics {
            let asked = &mut self.asked;
            return queue.drain(|chain| {
                if let Some(values) = statistics(chain.readable()) {
                    *lock(&target.statistics) = values;
                    if std::mem::take(asked) {
                        info!("balloon: the guest's memory:{}", text(&values));
                    }
                }
                if target.wanted.swap(false, Ordering::SeqCst) {
                    *asked = true;
                    return Some(0);
                }
                // The queue stalls on this buffer until the host asks.
                None
            });
        }
        match &self.memory {
            Some(memory) if index == INFLATE => queue.drain(|chain| {
                give_back(discard(memory, chain.readable()));
                Some(0)
            }),
            _ if reports => queue.drain(|chain| {
                give_back(chain.writable().discard());
                Some(0)
            }),
            _ => queue.drain(|_| Some(0)),
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![(self.target.changed.as_fd(), Ready::Read)]
    }

    /// The host wants statistics. Without a queue for them there are none.
    fn handle_event(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match self.has(feature::STATS_VQ) {
            true => self.process_queue(STATISTICS, queues),
            false => Ok(()),
        }
    }

    fn reset(&mut self) {
        (self.accepted, self.memory, self.asked) = (0, None, false);
        self.target.actual.store(0, Ordering::SeqCst);
        self.target.wanted.store(false, Ordering::SeqCst);
    }

    fn observe(&mut self, observer: &Arc<dyn DeviceObserver>) {
        observer.figures(self.target());
    }
}

impl Figures for Target {
    fn figures(&self) -> Vec<(&'static str, u64)> {
        let bytes = |pages: &AtomicU32| u64::from(pages.load(Ordering::SeqCst)) * PAGE;
        let given_back = self.given_back.load(Ordering::Relaxed);
        let mut figures = vec![
            ("target_bytes", bytes(&self.num_pages)),
            ("actual_bytes", bytes(&self.actual)),
            ("given_back_bytes", given_back),
        ];
        let values = *lock(&self.statistics);
        let known = STATISTIC.iter().zip(values);
        figures.extend(known.filter_map(|((name, ..), value)| Some((*name, value?))));
        figures
    }
}

/// The offset of `actual` in the configuration space (§ 5.5.4), behind `num_pages`.
const ACTUAL: usize = 4;

impl ConfigSpace for Target {
    fn len(&self) -> usize {
        8
    }

    fn read(&self, offset: usize, data: &mut [u8]) {
        let fields = [&self.num_pages, &self.actual];
        let fields = fields.map(|it| it.load(Ordering::SeqCst).to_le_bytes());
        fields.concat().read(offset, data);
    }

    /// Only `actual` can be written. If it falls although it is no more than the target, the guest
    /// has taken pages back by itself: its memory was short, and it may (DEFLATE_ON_OOM).
    fn write(&self, offset: usize, data: &[u8]) {
        let before = self.actual.load(Ordering::SeqCst);
        let mut actual = before.to_le_bytes();
        for (at, byte) in (offset..offset.saturating_add(data.len())).zip(data) {
            let field = at.checked_sub(ACTUAL);
            if let Some(place) = field.and_then(|at| actual.get_mut(at)) {
                *place = *byte;
            }
        }
        let actual = u32::from_le_bytes(actual);
        self.actual.store(actual, Ordering::SeqCst);
        let target = self.num_pages.load(Ordering::SeqCst);
        if actual < before && before <= target && !self.took_back.swap(true, Ordering::SeqCst) {
            info!("balloon: the guest has taken memory back by itself: {self}");
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "balloon_test.rs"]
mod tests;
