//! `hartvisor trace show FILE`: one request's life, as text.

use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// The parts of a trace that are used here.
#[derive(Deserialize)]
struct Trace {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
    #[serde(rename = "otherData", default)]
    other: Other,
}

#[derive(Default, Deserialize)]
struct Other {
    #[serde(default)]
    lost: u64,
}

/// One event; times in microseconds.
#[derive(Deserialize)]
struct Event {
    name: String,
    #[serde(default)]
    cat: String,
    ph: String,
    tid: u64,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Value,
}

impl Event {
    fn text(&self, key: &str) -> &str {
        self.args.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.args.get(key)?.as_u64()
    }

    fn end(&self) -> f64 {
        self.ts + self.dur
    }
}

/// The output of `trace show`: the life of request `number`. Without a number, it is the first
/// request of a disk, or else the first of any device.
///
/// # Errors
/// The file cannot be read, is not a trace, or has no such request.
pub fn text(path: &Path, number: Option<u64>) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Open {
        what: "trace",
        path: path.into(),
        source,
    })?;
    text_of(&bytes, number).map_err(|problem| Error::Recording {
        what: "trace",
        path: path.into(),
        problem,
    })
}

pub(super) fn text_of(bytes: &[u8], number: Option<u64>) -> Result<String, String> {
    let mut trace: Trace = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not a trace written by run --trace: {error}"))?;
    trace
        .events
        .sort_by(|one, other| one.ts.total_cmp(&other.ts));
    let requests = || trace.events.iter().filter(|event| event.name == "popped");
    let count = requests().count();
    let popped = match number {
        Some(number) => requests()
            .find(|event| event.number("request") == Some(number))
            .ok_or_else(|| {
                let lost = trace.other.lost;
                format!("it has no request {number} ({count} requests, {lost} events lost)")
            })?,
        None => requests()
            .find(|event| event.text("device").starts_with("disk"))
            .or_else(|| requests().next())
            .ok_or("it has no request")?,
    };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "request {} of {count}: {} queue {}, head {}{}",
        popped.number("request").unwrap_or(0),
        popped.text("device"),
        popped.number("queue").unwrap_or(0),
        popped.number("head").unwrap_or(0),
        match trace.other.lost {
            0 => String::new(),
            lost => format!(" ({lost} events lost)"),
        }
    );
    let steps = life(&trace.events, popped);
    let zero = steps.first().map_or(0.0, |(at, ..)| *at);
    for (at, name, what) in steps {
        let _ = writeln!(text, "{:>+10.1} us  {name:<11} {what}", at - zero);
    }
    Ok(text)
}

type Step = (f64, &'static str, String);

/// The steps of a request, in order of time.
fn life(events: &[Event], popped: &Event) -> Vec<Step> {
    let device = popped.text("device");
    let of_device = |event: &&Event| event.text("device") == device;
    let same_thread = |event: &&Event| event.tid == popped.tid;
    let mut steps = Vec::new();

    // The span of the thread that took it.
    let call = events.iter().filter(same_thread).find(|event| {
        event.ph == "X"
            && event.number("queue").or(event.number("file")).is_some()
            && event.ts <= popped.ts
            && popped.ts <= event.end()
    });
    if let Some(call) = call {
        arrival(events, call, device, &mut steps);
    }
    steps.push((popped.ts, "popped", chain(popped)));
    for (place, buffer) in popped
        .args
        .get("buffers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        steps.push((popped.ts, "descriptor", descriptor(place, buffer)));
    }
    let request = popped.number("request");
    let used = events
        .iter()
        .find(|event| event.name == "used" && event.number("request") == request);
    let until = used.map_or(f64::INFINITY, |used| used.ts);
    let host = events.iter().filter(same_thread).filter(|event| {
        event.name.starts_with("host ") && event.ts >= popped.ts && event.ts <= until
    });
    for host in host {
        let field = |key| host.number(key).unwrap_or(0);
        let (offset, len) = (field("offset"), field("len"));
        let what = match host.name.as_str() {
            "host sync" => "until all is durable".to_owned(),
            _ => format!("{len} bytes at byte {offset} of the file"),
        };
        let failed = match host.args.get("ok") {
            Some(Value::Bool(false)) => ", failed",
            _ => "",
        };
        let verb = host.name.trim_start_matches("host ");
        steps.push((
            host.ts,
            "host",
            format!("{verb} {what}: {:.1} us{failed}", host.dur),
        ));
    }
    let Some(used) = used else {
        steps.push((
            popped.ts,
            "…",
            "the device still had it when the trace ended".to_owned(),
        ));
        return steps;
    };
    let written = used.number("written").unwrap_or(0);
    steps.push((
        used.ts,
        "used",
        format!("{written} bytes written to its buffers"),
    ));
    let published = events.iter().filter(same_thread).find(|event| {
        event.name == "published"
            && event.ts >= used.ts
            && event.number("queue") == used.number("queue")
    });
    if let Some(published) = published {
        departure(events, published, &of_device, &mut steps);
    }
    steps
}

/// How the device was notified.
fn arrival(events: &[Event], call: &Event, device: &str, steps: &mut Vec<Step>) {
    // A store that exited comes shortly before, after the device's thread has finished its previous
    // work.
    let before = events
        .iter()
        .filter(|event| event.tid == call.tid && event.ph == "X" && event.end() <= call.ts)
        .map(Event::end)
        .fold(0.0, f64::max);
    let store = events.iter().rfind(|event| {
        event.text("register") == "QueueNotify"
            && event.text("device") == device
            && event.ts >= before
            && event.ts <= call.ts
    });
    if let Some(store) = store {
        let what = format!(
            "the guest stores {} to QueueNotify, which exits to the VMM",
            store.text("value")
        );
        steps.push((store.ts, "store", what));
    }
    let what = match (call.number("queue"), store) {
        (Some(queue), Some(store)) if store.tid == call.tid => {
            format!("the vCPU's thread serves queue {queue} at once")
        }
        (Some(queue), Some(_)) => format!("the device's thread wakes for queue {queue}"),
        (Some(queue), None) => {
            // Under QEMU no exits are recorded.
            let why = match events.iter().any(|event| event.cat == "exit") {
                true => "; the guest's store to QueueNotify did not exit (ioeventfd)",
                false => "",
            };
            format!("the device's thread wakes for queue {queue}{why}")
        }
        (None, _) => "the device's thread wakes: a host file is ready".to_owned(),
    };
    steps.push((call.ts, "kick", what));
}

fn chain(popped: &Event) -> String {
    let field = |key| popped.number(key).unwrap_or(0);
    format!(
        "{} descriptors: {} bytes to read, {} to write; {} available",
        field("descriptors"),
        field("readable"),
        field("writable"),
        field("waiting")
    )
}

fn descriptor(place: usize, buffer: &Value) -> String {
    let field = |key| buffer.get(key).and_then(Value::as_u64).unwrap_or(0);
    let address = buffer.get("address").and_then(Value::as_str).unwrap_or("?");
    let flags = field("flags");
    let direction = match (flags & 4 != 0, flags & 2 != 0) {
        (true, _) => "a table of descriptors",
        (false, true) => "the device writes",
        (false, false) => "the device reads",
    };
    let next = if flags & 1 != 0 {
        ", then the next"
    } else {
        ""
    };
    format!(
        "{place}: [{}] {address}, {} bytes, {direction}{next}",
        field("index"),
        field("len")
    )
}

/// How the guest is notified, once the used index is published.
fn departure<'a>(
    events: &'a [Event],
    published: &Event,
    of_device: &impl Fn(&&'a Event) -> bool,
    steps: &mut Vec<Step>,
) {
    let index = published.number("index").unwrap_or(0);
    let count = published.number("count").unwrap_or(0);
    let what = format!("used.idx = {index}, {count} more than before");
    steps.push((published.ts, "published", what));
    if published.args.get("interrupt") != Some(&Value::Bool(true)) {
        let what = "the driver wants none: it polls, or waits for more";
        steps.push((published.ts, "interrupt", what.to_owned()));
        return;
    }
    let later = |event: &&Event| event.ts >= published.ts;
    let mut after = events.iter().filter(of_device).filter(later);
    let acknowledged = after
        .clone()
        .find(|event| event.text("register") == "InterruptACK");
    let until = acknowledged.map_or(f64::INFINITY, |event| event.ts);
    match after.find(|event| event.name == "interrupt" && event.ts <= until) {
        Some(raised) => steps.push((raised.ts, "interrupt", "the line goes high".to_owned())),
        None => {
            let what = "wanted; the line is already high, or outside the VMM";
            steps.push((published.ts, "interrupt", what.to_owned()));
        }
    }
    let loads = || {
        let of_device = events.iter().filter(of_device);
        of_device.filter(|event| event.name.starts_with("read "))
    };
    let status = loads()
        .filter(later)
        .find(|event| event.text("register") == "InterruptStatus" && event.ts <= until);
    if let Some(read) = status {
        let what = "the guest reads InterruptStatus, which exits to the VMM";
        steps.push((read.ts, "status", what.to_owned()));
    }
    if let Some(event) = acknowledged {
        // A guest whose loads exit to the VMM has loaded MagicValue before its first request.
        let before = match loads().next() {
            None => "; its load of InterruptStatus did not exit (read in place)",
            Some(_) => "",
        };
        let what = format!(
            "the guest stores {} to InterruptACK{before}",
            event.text("value")
        );
        steps.push((event.ts, "ACK", what));
    }
}
