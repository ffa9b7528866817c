//! `hartvisor run --rings` records the contents of queues, and `hartvisor rings` draws them: the
//! descriptor table, the available and used rings, the chains and their owners.
//!
//! The file has two snapshots per queue: one at the kick with the most chains in flight, before any
//! was taken, and one when the file is written. That is at the end of the run, or on SIGUSR1 for a
//! driver that hangs. In the latter case the main thread reads guest memory while the guest runs,
//! so an index may be newer than an entry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use devices::observe::rings::{Snapshot, View};
use log::warn;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sink::Sink;

mod svg;
mod text;

/// A snapshot of a queue, in the format of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// `disk0`, `console`, …
    device: String,
    queue: u16,
    /// When it was taken.
    moment: Moment,
    /// The descriptor table.
    descriptors: Vec<Descriptor>,
    /// Indirect tables of chains in flight: the descriptor that refers to the table, and its
    /// entries.
    tables: Vec<(u16, Vec<Descriptor>)>,
    available: Available,
    used: Used,
    /// Heads of chains that are available and not used.
    in_flight: Vec<u16>,
}

/// When a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Moment {
    /// At the kick with the most chains in flight, before the device served it.
    BusiestKick,
    /// When the file was written.
    Now,
}

impl Moment {
    fn text(self) -> &'static str {
        match self {
            Moment::BusiestKick => "at the kick with the most requests in flight",
            Moment::Now => "when the file was written",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn goes_on(&self) -> bool {
        self.flags & 1 != 0
    }

    fn is_table(&self) -> bool {
        self.flags & 4 != 0
    }

    /// The direction of its buffer.
    fn direction(&self) -> &'static str {
        match (self.is_table(), self.flags & 2 != 0) {
            (true, _) => "table",
            (false, true) => "device writes",
            (false, false) => "device reads",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Available {
    flags: u16,
    idx: u16,
    ring: Vec<u16>,
    used_event: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    flags: u16,
    idx: u16,
    /// Head and bytes written.
    ring: Vec<(u32, u32)>,
    avail_event: Option<u16>,
}

impl Queue {
    fn new(device: &str, queue: u16, moment: Moment, held: &Snapshot) -> Queue {
        let plain = |all: &[devices::observe::rings::Descriptor]| {
            let plain = |it: &devices::observe::rings::Descriptor| Descriptor {
                address: it.address,
                len: it.len,
                flags: it.flags,
                next: it.next,
            };
            all.iter().map(plain).collect::<Vec<_>>()
        };
        Queue {
            device: device.to_owned(),
            queue,
            moment,
            descriptors: plain(&held.descriptors),
            tables: held
                .tables
                .iter()
                .map(|(head, table)| (*head, plain(table)))
                .collect(),
            available: Available {
                flags: held.available_flags,
                idx: held.available_idx,
                ring: held.available.clone(),
                used_event: held.used_event,
            },
            used: Used {
                flags: held.used_flags,
                idx: held.used_idx,
                ring: held.used.clone(),
                avail_event: held.avail_event,
            },
            in_flight: held.heads_in_flight().collect(),
        }
    }

    /// The descriptors of the chain that begins at `head`, with their indices. A loop is cut where
    /// it closes.
    fn chain(&self, head: u16) -> Vec<(u16, Descriptor)> {
        let mut chain = Vec::new();
        let mut index = head;
        while let Some(descriptor) = self.descriptors.get(usize::from(index)) {
            chain.push((index, *descriptor));
            if !descriptor.goes_on() || chain.len() >= self.descriptors.len() {
                break;
            }
            index = descriptor.next;
        }
        chain
    }

    /// The indirect table of descriptor `index`, if it is in flight.
    fn table(&self, index: u16) -> Option<&[Descriptor]> {
        let found = self.tables.iter().find(|(head, _)| *head == index);
        found.map(|(_, table)| table.as_slice())
    }
}

/// Records the queues of a run.
pub(crate) struct Recorder {
    path: PathBuf,
    sink: Sink,
    queues: Mutex<Vec<Kept>>,
}

struct Kept {
    device: String,
    queue: u16,
    /// `None` once the guest's memory is unmapped.
    view: Option<View>,
    busiest: Snapshot,
    last: Option<Snapshot>,
}

impl Recorder {
    /// A recorder for the file at `path`, which is created now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn new(path: &Path) -> Result<Recorder, Error> {
        let sink = Sink::create(path).map_err(|source| Error::Write {
            what: "the rings to",
            path: path.into(),
            source,
        })?;
        Ok(Recorder { path: path.into(), sink, queues: Mutex::default() })
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Kept>> {
        devices::lock(&self.queues)
    }

    /// Records a queue that was kicked and that this thread is about to serve.
    pub(crate) fn record(&self, device: &str, queue: u16, view: View) {
        let held = view.snapshot();
        let mut queues = self.queues();
        let known = queues
            .iter_mut()
            .find(|kept| kept.device == device && kept.queue == queue);
        match known {
            Some(kept) => {
                kept.view = Some(view);
                if held.in_flight() >= kept.busiest.in_flight() {
                    kept.busiest = held;
                }
            }
            None => queues.push(Kept {
                device: device.to_owned(),
                queue,
                view: Some(view),
                busiest: held,
                last: None,
            }),
        }
    }

    /// Takes the last snapshots: the VM has stopped, and its memory is about to be unmapped.
    pub(crate) fn vm_stopped(&self) {
        for kept in self.queues().iter_mut() {
            if let Some(view) = kept.view.take() {
                kept.last = Some(view.snapshot());
            }
        }
    }

    /// Writes the file.
    pub(crate) fn write(&self) {
        let mut all = Vec::new();
        for kept in self.queues().iter() {
            let of = |moment, held| Queue::new(&kept.device, kept.queue, moment, held);
            all.push(of(Moment::BusiestKick, &kept.busiest));
            let now = kept.view.as_ref().map(View::snapshot);
            if let Some(now) = now.as_ref().or(kept.last.as_ref()) {
                all.push(of(Moment::Now, now));
            }
        }
        let text = serde_json::to_vec(&all).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| self.sink.write(&text)) {
            warn!("cannot write the rings to {}: {error}", self.path.display());
        }
    }
}

/// Which queues to draw, and how.
#[derive(Clone, Debug, Default)]
pub struct Selection<'a> {
    /// Only queues of this device.
    pub device: Option<&'a str>,
    /// Only queues with this index.
    pub queue: Option<u16>,
    /// SVG instead of text.
    pub svg: bool,
}

/// Draws queues from the file at `path`: the output of `hartvisor rings`.
///
/// # Errors
/// The file cannot be read, is not a recording of rings, or does not contain the selected queues.
pub fn draw(path: &Path, selection: &Selection<'_>) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Open {
        what: "rings",
        path: path.into(),
        source,
    })?;
    let wrong = |problem| Error::Recording { what: "rings", path: path.into(), problem };
    let queues: Vec<Queue> = serde_json::from_slice(&bytes).map_err(|error| {
        wrong(format!(
            "it is not a recording written by run --rings: {error}"
        ))
    })?;
    let is_selected = |queue: &&Queue| {
        selection.device.is_none_or(|it| *it == queue.device)
            && selection.queue.is_none_or(|it| it == queue.queue)
    };
    let found: Vec<_> = queues.iter().filter(is_selected).collect();
    if found.is_empty() {
        let known: Vec<_> = queues
            .iter()
            .map(|it| format!("{} {}", it.device, it.queue))
            .collect();
        let known = known.join(", ");
        return Err(wrong(format!(
            "it has no such queue, its queues are: {known}"
        )));
    }
    if selection.svg {
        return Ok(svg::draw(&found));
    }
    let texts: Vec<_> = found.iter().map(|queue| text::draw(queue)).collect();
    Ok(texts.join("\n"))
}

#[cfg(test)]
#[path = "rings_test.rs"]
mod tests;
