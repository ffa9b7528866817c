//! The trace's file: Chrome's JSON format ("Trace Event Format"), which Perfetto (ui.perfetto.dev)
//! reads.
//!
//! Each event is complete: a span (`X`, with its duration) or an instant (`i`). So a lost event
//! leaves no other event without its end.

use std::collections::HashMap;
use std::fmt::{Arguments, Write as _};
use std::io::{self, Write};

use devices::observe::{Event, HostCall};

use super::{Record, What};
use crate::exit::{Exit, Names};

/// Writes events as they come. All names are our own, so no text needs escaping.
///
/// The work of a device is in a lane of its own, such as `disk0 q0`, whichever of its threads does
/// it. The work of a vCPU, also for a device, is in the lane of its thread.
pub(super) struct Writer<W: Write> {
    out: W,
    first: bool,
    /// Names, by number.
    lanes: Vec<String>,
    /// The requests in progress, by device, queue and head.
    requests: HashMap<(u8, u16, u16), u64>,
    next_request: u64,
}

/// A thread that reports events, and the calls that it has begun.
pub(super) struct Thread {
    name: String,
    /// A call of a device.
    call: Option<Call>,
    /// A host call.
    host: Option<(u64, &'static str, String)>,
    /// A chain that was taken, while its descriptors are reported.
    popped: Option<(u64, String)>,
}

impl Thread {
    pub(super) fn new(name: &str) -> Thread {
        Thread { name: name.to_owned(), call: None, host: None, popped: None }
    }
}

struct Call {
    lane: usize,
    began: u64,
    args: String,
}

/// An event's category and name.
type Name<'a> = (&'static str, &'a str);

impl<W: Write> Writer<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        let mut writer = Writer {
            out,
            first: true,
            lanes: Vec::new(),
            requests: HashMap::new(),
            next_request: 0,
        };
        writer.put(format_args!(
            r#""ph":"M","name":"process_name","pid":1,"tid":0,"args":{{"name":"hartvisor"}}"#
        ))?;
        Ok(writer)
    }

    /// The number of the lane called `name`.
    fn lane(&mut self, name: &str) -> io::Result<usize> {
        if let Some(lane) = self.lanes.iter().position(|known| known == name) {
            return Ok(lane);
        }
        let lane = self.lanes.len();
        self.lanes.push(name.to_owned());
        self.put(format_args!(
            r#""ph":"M","name":"thread_name","pid":1,"tid":{lane},"args":{{"name":"{name}"}}"#
        ))?;
        Ok(lane)
    }

    /// The lane of a thread's current work.
    fn lane_of(&mut self, thread: &Thread) -> io::Result<usize> {
        match &thread.call {
            Some(call) => Ok(call.lane),
            None => self.lane(&thread.name),
        }
    }

    pub(super) fn record(
        &mut self,
        thread: &mut Thread,
        record: &Record,
        names: &Names,
        devices: &[String],
    ) -> io::Result<()> {
        match record.what {
            What::Exit(why, took) => {
                let (name, args) = exit(why, names, devices);
                let lane = self.lane(&thread.name)?;
                self.span(lane, ("exit", &name), record.at, took, &args)
            }
            What::Device(device, event) => {
                let name = devices.get(usize::from(device));
                let name = name.map_or("?", String::as_str);
                self.event(thread, record.at, (device, name), event)
            }
        }
    }

    /// A device's call begins, in `lane` unless a vCPU makes it.
    fn begin(&mut self, thread: &mut Thread, lane: &str, at: u64, args: String) -> io::Result<()> {
        let lane = match thread.name.starts_with("vcpu") {
            true => self.lane(&thread.name)?,
            false => self.lane(lane)?,
        };
        thread.call = Some(Call { lane, began: at, args });
        Ok(())
    }

    fn event(
        &mut self,
        thread: &mut Thread,
        at: u64,
        (number, device): (u8, &str),
        event: Event,
    ) -> io::Result<()> {
        if let Event::Descriptor { index, address, len, flags } = event {
            // If there is none, the event of its chain was lost.
            if let Some((_, args)) = &mut thread.popped {
                let comma = if args.ends_with('[') { "" } else { "," };
                let _ = write!(
                    args,
                    r#"{comma}{{"index":{index},"address":"{address:#x}","len":{len},"flags":{flags}}}"#
                );
            }
            return Ok(());
        }
        self.popped(thread)?;
        let lane = self.lane_of(thread)?;
        match event {
            Event::Kicked { queue } => {
                let args = format!(r#""device":"{device}","queue":{queue}"#);
                return self.begin(thread, &format!("{device} q{queue}"), at, args);
            }
            Event::Ready { file } => {
                let args = format!(r#""device":"{device}","file":{file}"#);
                return self.begin(thread, &format!("{device} host"), at, args);
            }
            Event::Idle | Event::QueueError => {
                if let Some(call) = thread.call.take() {
                    let name = match event {
                        Event::QueueError => "broken",
                        _ => "serve",
                    };
                    let took = at.saturating_sub(call.began);
                    return self.span(lane, ("device", name), call.began, took, &call.args);
                }
            }
            Event::Popped { queue, head, descriptors, readable, writable, waiting } => {
                let request = self.next_request;
                self.next_request += 1;
                self.requests.insert((number, queue, head), request);
                thread.popped = Some((
                    at,
                    format!(
                        r#""device":"{device}","queue":{queue},"request":{request},"head":{head},"descriptors":{descriptors},"readable":{readable},"writable":{writable},"waiting":{waiting},"buffers":["#
                    ),
                ));
            }
            Event::Descriptor { .. } => {}
            Event::Used { queue, head, written } => {
                // Null if the event of its taking was lost.
                let request = self.requests.remove(&(number, queue, head));
                let request = request.map_or("null".to_owned(), |it| it.to_string());
                let args = format!(
                    r#""device":"{device}","queue":{queue},"request":{request},"head":{head},"written":{written}"#
                );
                return self.instant(lane, ("queue", "used"), at, &args);
            }
            Event::Published { queue, index, count, interrupt } => {
                let args = format!(
                    r#""device":"{device}","queue":{queue},"index":{index},"count":{count},"interrupt":{interrupt}"#
                );
                return self.instant(lane, ("queue", "published"), at, &args);
            }
            Event::Host { call, offset, len } => {
                let name = match call {
                    HostCall::Read => "host read",
                    HostCall::Write => "host write",
                    HostCall::Sync => "host sync",
                    HostCall::Forget => "host forget",
                };
                let args = format!(r#""device":"{device}","offset":{offset},"len":{len}"#);
                thread.host = Some((at, name, args));
            }
            Event::HostDone { ok } => {
                if let Some((began, name, args)) = thread.host.take() {
                    let args = format!(r#"{args},"ok":{ok}"#);
                    let took = at.saturating_sub(began);
                    return self.span(lane, ("host", name), began, took, &args);
                }
            }
            Event::Failed { status } => {
                let args = format!(r#""device":"{device}","status":{status}"#);
                return self.instant(lane, ("device", "failed"), at, &args);
            }
            Event::Raised => {
                let args = format!(r#""device":"{device}""#);
                return self.instant(lane, ("interrupt", "interrupt"), at, &args);
            }
        }
        Ok(())
    }

    /// Writes the taking of a chain, after all its descriptors were reported.
    fn popped(&mut self, thread: &mut Thread) -> io::Result<()> {
        match thread.popped.take() {
            Some((at, args)) => {
                let lane = self.lane_of(thread)?;
                self.instant(lane, ("queue", "popped"), at, &format!("{args}]"))
            }
            None => Ok(()),
        }
    }

    /// Writes what is left of a thread that has ended.
    pub(super) fn end_thread(&mut self, thread: &mut Thread) -> io::Result<()> {
        self.popped(thread)
    }

    fn span(
        &mut self,
        lane: usize,
        (category, name): Name<'_>,
        began: u64,
        took: u64,
        args: &str,
    ) -> io::Result<()> {
        let (ts, dur) = (Microseconds(began), Microseconds(took));
        self.put(format_args!(
            r#""ph":"X","cat":"{category}","name":"{name}","pid":1,"tid":{lane},"ts":{ts},"dur":{dur},"args":{{{args}}}"#
        ))
    }

    fn instant(
        &mut self,
        lane: usize,
        (category, name): Name<'_>,
        at: u64,
        args: &str,
    ) -> io::Result<()> {
        let ts = Microseconds(at);
        self.put(format_args!(
            r#""ph":"i","s":"t","cat":"{category}","name":"{name}","pid":1,"tid":{lane},"ts":{ts},"args":{{{args}}}"#
        ))
    }

    fn put(&mut self, fields: Arguments<'_>) -> io::Result<()> {
        let comma = if self.first { "" } else { "," };
        self.first = false;
        write!(self.out, "{comma}\n{{{fields}}}")
    }

    /// Writes the end of the file, with the number of lost events.
    pub(super) fn finish(mut self, lost: u64) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            self.out,
            "\n],\"otherData\":{{\"hartvisor\":\"{version}\",\"lost\":{lost}}}}}"
        )?;
        self.out.flush()
    }
}

/// Nanoseconds, printed as microseconds with three decimals.
struct Microseconds(u64);

impl std::fmt::Display for Microseconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The name and the arguments of an exit.
fn exit(exit: Exit, names: &Names, devices: &[String]) -> (String, String) {
    match exit {
        Exit::Read(number) => {
            let (device, register) = names.register(number, devices);
            let name = format!("read {device} {register}");
            let args = format!(r#""device":"{device}","register":"{register}""#);
            (name, args)
        }
        Exit::Write(number, value) => {
            let (device, register) = names.register(number, devices);
            let name = format!("write {device} {register}");
            let args =
                format!(r#""device":"{device}","register":"{register}","value":"{value:#x}""#);
            (name, args)
        }
        Exit::Sbi(number) => (names.sbi(number).to_owned(), String::new()),
        Exit::Csr(number) => ("CSR".to_owned(), format!(r#""number":"{number:#x}""#)),
        Exit::Fault => ("fault".to_owned(), String::new()),
        Exit::Ended => ("ended".to_owned(), String::new()),
        Exit::Interrupted => ("interrupted".to_owned(), String::new()),
    }
}
