//! The trace's file: Chrome's JSON format ("Trace Event Format"), which Perfetto (ui.perfetto.dev) reads.
//!
//! Each event is complete in itself: a span (`X`, with its duration) or an instant (`i`). So one that was lost leaves no
//! other without its end.

use std::collections::HashMap;
use std::io::{self, Write};

use devices::watch::{Event, HostCall};
use serde_json::{Map, Value, json};

use super::{ExitNote, Record, What};
use crate::sbi;
use crate::stats::registers::{self, Place};

/// Writes events as they come.
pub(super) struct Writer<W: Write> {
    out: W,
    first: bool,
    threads: Vec<Thread>,
    /// The requests that a device holds, by device, queue and head.
    requests: HashMap<(u8, u16, u16), u64>,
    next_request: u64,
}

/// What a thread has begun.
#[derive(Default)]
struct Thread {
    /// A call of its device: since when, and why.
    call: Option<(u64, Value)>,
    /// A call of the host: since when, what, and with what.
    host: Option<(u64, &'static str, Value)>,
    /// A chain that was taken, whose descriptors are still to come.
    popped: Option<(u64, Map<String, Value>)>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        Ok(Writer {
            out,
            first: true,
            threads: Vec::new(),
            requests: HashMap::new(),
            next_request: 0,
        })
    }

    /// One more thread, with the next number.
    pub(super) fn thread(&mut self, name: &str) -> io::Result<()> {
        let number = self.threads.len();
        self.threads.push(Thread::default());
        self.put(&json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": name}}))
    }

    pub(super) fn record(
        &mut self,
        thread: usize,
        record: &Record,
        devices: &[String],
    ) -> io::Result<()> {
        match record.what {
            What::Exit(note, took) => {
                let (name, args) = exit(note, devices);
                self.span(thread, "exit", &name, record.at, took, args)
            }
            What::Device(device, event) => {
                let name = devices.get(usize::from(device));
                let name = name.map_or("?", String::as_str);
                self.event(thread, record.at, (device, name), event)
            }
        }
    }

    fn event(
        &mut self,
        thread: usize,
        at: u64,
        (number, device): (u8, &str),
        event: Event,
    ) -> io::Result<()> {
        let Some(state) = self.threads.get_mut(thread) else {
            return Ok(());
        };
        if let (
            Some((_, args)),
            Event::Descriptor {
                index,
                address,
                len,
                flags,
            },
        ) = (&mut state.popped, event)
        {
            let told = args.entry("buffers").or_insert_with(|| json!([]));
            if let Some(told) = told.as_array_mut() {
                told.push(json!({"index": index, "address": format!("{address:#x}"), "len": len, "flags": flags}));
            }
            return Ok(());
        }
        if let Some((at, args)) = state.popped.take() {
            self.instant(thread, "queue", "popped", at, args.into())?;
        }
        let Some(state) = self.threads.get_mut(thread) else {
            return Ok(());
        };
        match event {
            Event::Kicked { queue } => {
                state.call = Some((at, json!({"device": device, "queue": queue})));
            }
            Event::Ready { file } => {
                state.call = Some((at, json!({"device": device, "file": file})));
            }
            Event::Idle | Event::Broken => {
                if let Some((began, args)) = state.call.take() {
                    let name = match event {
                        Event::Broken => "broken",
                        _ => "serve",
                    };
                    let took = at.saturating_sub(began);
                    return self.span(thread, "device", name, began, took, args);
                }
            }
            Event::Popped {
                queue,
                head,
                descriptors,
                readable,
                writable,
                waiting,
            } => {
                let request = self.next_request;
                self.next_request += 1;
                self.requests.insert((number, queue, head), request);
                let args = json!({"device": device, "queue": queue, "request": request, "head": head,
                    "descriptors": descriptors, "readable": readable, "writable": writable, "waiting": waiting});
                if let (Some(state), Value::Object(args)) = (self.threads.get_mut(thread), args) {
                    state.popped = Some((at, args));
                }
            }
            // Its chain was lost.
            Event::Descriptor { .. } => {}
            Event::Used {
                queue,
                head,
                written,
            } => {
                let request = self.requests.remove(&(number, queue, head));
                let args = json!({"device": device, "queue": queue, "request": request, "head": head, "written": written});
                return self.instant(thread, "queue", "used", at, args);
            }
            Event::Published {
                queue,
                index,
                count,
                interrupt,
            } => {
                let args = json!({"device": device, "queue": queue, "index": index, "count": count, "interrupt": interrupt});
                return self.instant(thread, "queue", "published", at, args);
            }
            Event::Host { call, offset, len } => {
                let name = match call {
                    HostCall::Read => "host read",
                    HostCall::Write => "host write",
                    HostCall::Sync => "host sync",
                    HostCall::Forget => "host forget",
                };
                let args = json!({"device": device, "offset": offset, "len": len});
                state.host = Some((at, name, args));
            }
            Event::HostDone { ok } => {
                if let Some((began, name, mut args)) = state.host.take() {
                    if let Some(args) = args.as_object_mut() {
                        args.insert("ok".into(), ok.into());
                    }
                    let took = at.saturating_sub(began);
                    return self.span(thread, "host", name, began, took, args);
                }
            }
            Event::Failed { status } => {
                let args = json!({"device": device, "status": status});
                return self.instant(thread, "device", "failed", at, args);
            }
            Event::Raised => {
                let args = json!({"device": device});
                return self.instant(thread, "interrupt", "interrupt", at, args);
            }
        }
        Ok(())
    }

    fn span(
        &mut self,
        thread: usize,
        category: &str,
        name: &str,
        began: u64,
        took: u64,
        args: Value,
    ) -> io::Result<()> {
        self.put(
            &json!({"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread,
            "ts": microseconds(began), "dur": microseconds(took), "args": args}),
        )
    }

    fn instant(
        &mut self,
        thread: usize,
        category: &str,
        name: &str,
        at: u64,
        args: Value,
    ) -> io::Result<()> {
        self.put(
            &json!({"ph": "i", "s": "t", "cat": category, "name": name, "pid": 1, "tid": thread,
            "ts": microseconds(at), "args": args}),
        )
    }

    fn put(&mut self, event: &Value) -> io::Result<()> {
        let comma: &[u8] = if self.first { b"\n" } else { b",\n" };
        self.first = false;
        self.out.write_all(comma)?;
        serde_json::to_writer(&mut self.out, event).map_err(io::Error::from)
    }

    /// The end of the file, with the number of events that are missing in it.
    pub(super) fn finish(mut self, lost: u64) -> io::Result<()> {
        for thread in 0..self.threads.len() {
            let popped = self.threads.get_mut(thread).and_then(|it| it.popped.take());
            if let Some((at, args)) = popped {
                self.instant(thread, "queue", "popped", at, args.into())?;
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        write!(
            self.out,
            "\n],\"otherData\":{{\"hartvisor\":\"{version}\",\"lost\":{lost}}}}}\n"
        )?;
        self.out.flush()
    }
}

/// The format's unit, with nanoseconds behind the point.
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// The name of an exit, and what belongs to it.
fn exit(note: ExitNote, devices: &[String]) -> (String, Value) {
    let register = |number| {
        let (place, register) = registers::name(number);
        let device = match place {
            Place::Board(name) => name.to_owned(),
            Place::Slot(slot) => match devices.get(slot) {
                Some(name) => name.clone(),
                None => format!("empty slot {slot}"),
            },
        };
        (device, register)
    };
    match note {
        ExitNote::Read(number) => {
            let (device, register) = register(number);
            let name = format!("read {device} {register}");
            (name, json!({"device": device, "register": register}))
        }
        ExitNote::Write(number, value) => {
            let (device, register) = register(number);
            let name = format!("write {device} {register}");
            let value = format!("{value:#x}");
            (
                name,
                json!({"device": device, "register": register, "value": value}),
            )
        }
        ExitNote::Sbi(number) => {
            let name = sbi::NAMES.get(number).copied().unwrap_or("SBI call");
            (name.to_owned(), json!({}))
        }
        ExitNote::Csr(number) => ("CSR".to_owned(), json!({"number": format!("{number:#x}")})),
        ExitNote::Ended => ("ended".to_owned(), json!({})),
        ExitNote::Interrupted => ("interrupted".to_owned(), json!({})),
    }
}
