//! The trace's file: Chrome's JSON format ("Trace Event Format"), which Perfetto (ui.perfetto.dev) reads.
//!
//! Each event is complete in itself: a span (`X`, with its duration) or an instant (`i`). So one that was lost leaves no
//! other without its end.

use std::collections::HashMap;
use std::fmt::{Arguments, Write as _};
use std::io::{self, Write};

use devices::watch::{Event, HostCall};

use super::{ExitNote, Record, What};
use crate::sbi;
use crate::stats::registers::{self, Place};

/// Writes events as they come. No text in them needs escaping: names are our own.
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
    call: Option<(u64, String)>,
    /// A call of the host: since when, what, and with what.
    host: Option<(u64, &'static str, String)>,
    /// A chain that was taken, whose descriptors are still to come.
    popped: Option<(u64, String)>,
}

/// An event's category and name.
type Name<'a> = (&'static str, &'a str);

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
        self.put(format_args!(
            r#""ph":"M","name":"thread_name","pid":1,"tid":{number},"args":{{"name":"{name}"}}"#
        ))
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
                self.span(thread, ("exit", &name), record.at, took, &args)
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
        if let Event::Descriptor {
            index,
            address,
            len,
            flags,
        } = event
        {
            // Without its chain, that was lost.
            if let Some((_, args)) = &mut state.popped {
                let comma = if args.ends_with('[') { "" } else { "," };
                let _ = write!(
                    args,
                    r#"{comma}{{"index":{index},"address":"{address:#x}","len":{len},"flags":{flags}}}"#
                );
            }
            return Ok(());
        }
        self.popped(thread)?;
        let Some(state) = self.threads.get_mut(thread) else {
            return Ok(());
        };
        match event {
            Event::Kicked { queue } => {
                state.call = Some((at, format!(r#""device":"{device}","queue":{queue}"#)));
            }
            Event::Ready { file } => {
                state.call = Some((at, format!(r#""device":"{device}","file":{file}"#)));
            }
            Event::Idle | Event::QueueError => {
                if let Some((began, args)) = state.call.take() {
                    let name = match event {
                        Event::QueueError => "broken",
                        _ => "serve",
                    };
                    let took = at.saturating_sub(began);
                    return self.span(thread, ("device", name), began, took, &args);
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
                state.popped = Some((
                    at,
                    format!(
                        r#""device":"{device}","queue":{queue},"request":{request},"head":{head},"descriptors":{descriptors},"readable":{readable},"writable":{writable},"waiting":{waiting},"buffers":["#
                    ),
                ));
            }
            Event::Descriptor { .. } => {}
            Event::Used {
                queue,
                head,
                written,
            } => {
                // Null for one whose taking was lost.
                let request = self.requests.remove(&(number, queue, head));
                let request = request.map_or("null".to_owned(), |it| it.to_string());
                let args = format!(
                    r#""device":"{device}","queue":{queue},"request":{request},"head":{head},"written":{written}"#
                );
                return self.instant(thread, ("queue", "used"), at, &args);
            }
            Event::Published {
                queue,
                index,
                count,
                interrupt,
            } => {
                let args = format!(
                    r#""device":"{device}","queue":{queue},"index":{index},"count":{count},"interrupt":{interrupt}"#
                );
                return self.instant(thread, ("queue", "published"), at, &args);
            }
            Event::Host { call, offset, len } => {
                let name = match call {
                    HostCall::Read => "host read",
                    HostCall::Write => "host write",
                    HostCall::Sync => "host sync",
                    HostCall::Forget => "host forget",
                };
                let args = format!(r#""device":"{device}","offset":{offset},"len":{len}"#);
                state.host = Some((at, name, args));
            }
            Event::HostDone { ok } => {
                if let Some((began, name, args)) = state.host.take() {
                    let args = format!(r#"{args},"ok":{ok}"#);
                    let took = at.saturating_sub(began);
                    return self.span(thread, ("host", name), began, took, &args);
                }
            }
            Event::Failed { status } => {
                let args = format!(r#""device":"{device}","status":{status}"#);
                return self.instant(thread, ("device", "failed"), at, &args);
            }
            Event::Raised => {
                let args = format!(r#""device":"{device}""#);
                return self.instant(thread, ("interrupt", "interrupt"), at, &args);
            }
        }
        Ok(())
    }

    /// Writes the taking of a chain, all of whose descriptors have come.
    fn popped(&mut self, thread: usize) -> io::Result<()> {
        let state = self.threads.get_mut(thread);
        match state.and_then(|state| state.popped.take()) {
            Some((at, args)) => self.instant(thread, ("queue", "popped"), at, &format!("{args}]")),
            None => Ok(()),
        }
    }

    fn span(
        &mut self,
        thread: usize,
        (category, name): Name<'_>,
        began: u64,
        took: u64,
        args: &str,
    ) -> io::Result<()> {
        let (ts, dur) = (Microseconds(began), Microseconds(took));
        self.put(format_args!(
            r#""ph":"X","cat":"{category}","name":"{name}","pid":1,"tid":{thread},"ts":{ts},"dur":{dur},"args":{{{args}}}"#
        ))
    }

    fn instant(
        &mut self,
        thread: usize,
        (category, name): Name<'_>,
        at: u64,
        args: &str,
    ) -> io::Result<()> {
        let ts = Microseconds(at);
        self.put(format_args!(
            r#""ph":"i","s":"t","cat":"{category}","name":"{name}","pid":1,"tid":{thread},"ts":{ts},"args":{{{args}}}"#
        ))
    }

    fn put(&mut self, fields: Arguments<'_>) -> io::Result<()> {
        let comma = if self.first { "" } else { "," };
        self.first = false;
        write!(self.out, "{comma}\n{{{fields}}}")
    }

    /// The end of the file, with the number of events that are missing in it.
    pub(super) fn finish(mut self, lost: u64) -> io::Result<()> {
        for thread in 0..self.threads.len() {
            self.popped(thread)?;
        }
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            self.out,
            "\n],\"otherData\":{{\"hartvisor\":\"{version}\",\"lost\":{lost}}}}}"
        )?;
        self.out.flush()
    }
}

/// Nanoseconds in the format's unit, with three digits behind the point.
struct Microseconds(u64);

impl std::fmt::Display for Microseconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The name of an exit, and what belongs to it.
fn exit(note: ExitNote, devices: &[String]) -> (String, String) {
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
            let args = format!(r#""device":"{device}","register":"{register}""#);
            (name, args)
        }
        ExitNote::Write(number, value) => {
            let (device, register) = register(number);
            let name = format!("write {device} {register}");
            let args =
                format!(r#""device":"{device}","register":"{register}","value":"{value:#x}""#);
            (name, args)
        }
        ExitNote::Sbi(number) => {
            let name = sbi::NAMES.get(number).copied().unwrap_or("SBI call");
            (name.to_owned(), String::new())
        }
        ExitNote::Csr(number) => ("CSR".to_owned(), format!(r#""number":"{number:#x}""#)),
        ExitNote::Fault => ("fault".to_owned(), String::new()),
        ExitNote::Ended => ("ended".to_owned(), String::new()),
        ExitNote::Interrupted => ("interrupted".to_owned(), String::new()),
    }
}
