//! `hartvisor run --trace`: timed events of vCPUs and devices, in a file for Perfetto; and
//! `hartvisor trace show`, which prints one request's life from it.
//!
//! ```text
//!   vCPU and device threads ──▶ one ring each ──▶ the trace's thread ──▶ chrome::Writer ──▶ FILE
//!                               of fixed size; if full, the event is dropped and counted
//! ```

use std::cell::RefCell;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use devices::lock;
use devices::observe::Event;
use devices::output::timed::{self, TimedWriter};
use log::warn;

use crate::error::Error;
use crate::exit::{Exit, Names};

mod chrome;
pub mod show;

/// Events in each ring: about 1 MiB.
const RING: usize = 16384;

/// How long the trace's thread sleeps. A ring that fills up in less time loses events.
const NAP: Duration = Duration::from_millis(5);

/// A timed event.
#[derive(Clone, Copy)]
struct Record {
    /// Nanoseconds since the trace began.
    at: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// An event of the device with this number.
    Device(u8, Event),
    /// An exit of a vCPU, which took this many nanoseconds.
    Exit(Exit, u64),
}

/// A trace that is being written.
pub(crate) struct Trace {
    tracer: Arc<Tracer>,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

/// The part of a trace that threads report to.
pub(crate) struct Tracer {
    /// Distinguishes traces: a thread of a test may have used another before.
    id: usize,
    began: Instant,
    names: Arc<Names>,
    /// Rings that the trace's thread has not taken yet.
    new: Mutex<Vec<Ring>>,
    /// The devices' names by number.
    devices: Mutex<Vec<String>>,
    end: AtomicBool,
}

/// The receiving end of one thread's ring.
struct Ring {
    thread: String,
    records: Receiver<Record>,
    lost: Arc<AtomicU64>,
}

/// The sending end, in the thread that reports.
struct Sender {
    tracer: usize,
    records: SyncSender<Record>,
    lost: Arc<AtomicU64>,
}

thread_local! {
    static SENDER: RefCell<Option<Sender>> = const { RefCell::new(None) };
}

impl Trace {
    /// Starts a trace to the file at `path`, which is created now.
    ///
    /// # Errors
    /// The file cannot be written, or the host has no thread left.
    pub(crate) fn start(path: &Path, names: Arc<Names>) -> Result<Trace, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let cannot = |source| Error::Write { what: "the trace to", path: path.into(), source };
        let file = timed::create(path).map_err(cannot)?;
        let file = TimedWriter::new(file.as_fd()).map_err(cannot)?;
        let tracer = Arc::new(Tracer {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            began: Instant::now(),
            names,
            new: Mutex::default(),
            devices: Mutex::default(),
            end: AtomicBool::new(false),
        });
        let (served, path) = (Arc::clone(&tracer), path.to_owned());
        let thread = Builder::new()
            .name("trace".into())
            .spawn(move || {
                let written = write(&served, file);
                if let Err(error) = &written {
                    // Now, not at the end of the run, which may be days away.
                    warn!(
                        "cannot write the trace to {}: {error}; it ends here",
                        path.display()
                    );
                }
                written
            })
            .map_err(cannot)?;
        Ok(Trace { tracer, thread: Some(thread) })
    }

    pub(crate) fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// Writes the remaining events, after all reporting threads have ended.
    pub(crate) fn finish(&mut self) {
        self.tracer.end.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        match thread.join() {
            Ok(Ok(0)) => {}
            Ok(Ok(lost)) => warn!("the trace has lost {lost} events: its thread fell behind"),
            // The thread has logged it.
            Ok(Err(_)) => {}
            Err(_) => warn!("the trace's thread panicked"),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Tracer {
    /// The number of the device called `name`.
    pub(crate) fn device(&self, name: &str) -> u8 {
        let mut devices = lock(&self.devices);
        let known = devices.iter().position(|known| known == name);
        let number = known.unwrap_or_else(|| {
            devices.push(name.to_owned());
            devices.len() - 1
        });
        // There are far fewer slots.
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    /// Reports an event of a device, in this thread.
    pub(crate) fn event(&self, device: u8, event: Event) {
        self.send(self.now(), What::Device(device, event));
    }

    /// Reports that this thread's vCPU left the guest at `began`, and enters it now.
    pub(crate) fn exit(&self, exit: Exit, began: u64) {
        let took = self.now().saturating_sub(began);
        self.send(began, What::Exit(exit, took));
    }

    /// Nanoseconds since the trace began.
    pub(crate) fn now(&self) -> u64 {
        // Enough for 584 years.
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn send(&self, at: u64, what: What) {
        SENDER.with_borrow_mut(|sender| {
            let known = sender.take().filter(|sender| sender.tracer == self.id);
            let known = sender.insert(known.unwrap_or_else(|| self.add_ring()));
            if known.records.try_send(Record { at, what }).is_err() {
                known.lost.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Adds a ring for this thread, when it reports for the first time.
    fn add_ring(&self) -> Sender {
        let (sender, receiver) = sync_channel(RING);
        let lost = Arc::new(AtomicU64::new(0));
        let thread = thread::current();
        lock(&self.new).push(Ring {
            thread: thread.name().unwrap_or("main").to_owned(),
            records: receiver,
            lost: Arc::clone(&lost),
        });
        Sender { tracer: self.id, records: sender, lost }
    }
}

/// The trace's thread. Returns the number of events that were lost.
///
/// A reboot starts new threads. The ring of a thread that has ended is dropped once it is empty, so
/// that a guest cannot make the monitor grow.
fn write(tracer: &Tracer, file: TimedWriter) -> io::Result<u64> {
    let mut writer = chrome::Writer::new(BufWriter::new(file))?;
    let mut rings: Vec<(chrome::Thread, Ring)> = Vec::new();
    let mut lost = 0;
    loop {
        // Read before the rings, so that they contain everything that was reported before the end.
        let end = tracer.end.load(Ordering::Acquire);
        for ring in lock(&tracer.new).drain(..) {
            rings.push((chrome::Thread::new(&ring.thread), ring));
        }
        let mut open = Vec::with_capacity(rings.len());
        for (mut thread, ring) in rings.drain(..) {
            let ended = loop {
                match ring.records.try_recv() {
                    Ok(record) => {
                        let devices = lock(&tracer.devices);
                        writer.record(&mut thread, &record, &tracer.names, &devices)?;
                    }
                    Err(empty) => break end || empty == TryRecvError::Disconnected,
                }
            };
            if ended {
                writer.end_thread(&mut thread)?;
                lost += ring.lost.load(Ordering::Relaxed);
            } else {
                open.push((thread, ring));
            }
        }
        rings = open;
        if end {
            writer.finish(lost)?;
            return Ok(lost);
        }
        thread::park_timeout(NAP);
    }
}

#[cfg(test)]
#[path = "trace_test.rs"]
mod tests;
