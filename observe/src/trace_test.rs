use std::fs;

use devices::observe::HostCall;
use serde_json::Value;

use super::*;
use crate::exit::test;

/// Runs `report` in a thread called `name`.
fn by(name: &str, tracer: &Arc<Tracer>, report: impl FnOnce(&Tracer) + Send + 'static) {
    let tracer = Arc::clone(tracer);
    let told = Builder::new()
        .name(name.into())
        .spawn(move || report(&tracer));
    told.unwrap().join().unwrap();
}

fn request(tracer: &Tracer, device: u8, head: u16) {
    let queue = 0;
    for event in [
        Event::Kicked { queue },
        Event::Popped { queue, head, descriptors: 2, readable: 16, writable: 513, waiting: 1 },
        Event::Descriptor { index: head, address: 0x8020_0000, len: 16, flags: 1 },
        Event::Descriptor { index: head + 1, address: 0x8030_0000, len: 513, flags: 2 },
        Event::Host { call: HostCall::Read, offset: 1024, len: 512 },
        Event::HostDone { ok: true },
        Event::Used { queue, head, written: 513 },
        Event::Published { queue, index: 1, count: 1, interrupt: true },
        Event::Raised,
        Event::Idle,
    ] {
        tracer.event(device, event);
    }
}

/// A finished trace of two requests of a disk. The second was notified by a store that exited. No
/// load exits.
fn two_requests() -> Vec<u8> {
    traced(&[], &[(test::ACK, 1), (test::NOTIFY, 0)])
}

/// A trace of two requests, with `loads` from and `stores` to registers between them.
fn traced(loads: &'static [usize], stores: &'static [(usize, u64)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut trace = Trace::start(&path, Arc::new(test::names())).unwrap();
    let tracer = trace.tracer();
    assert_eq!((tracer.device("console"), tracer.device("disk0")), (0, 1));
    by("block", tracer, |tracer| request(tracer, 1, 3));
    by("vcpu0", tracer, move |tracer| {
        for register in loads {
            tracer.exit(Exit::Read(*register), tracer.now());
        }
        for (register, value) in stores {
            tracer.exit(Exit::Write(*register, *value), tracer.now());
        }
    });
    by("block", tracer, |tracer| request(tracer, 1, 7));
    trace.finish();
    fs::read(&path).unwrap()
}

#[test]
fn a_trace_is_json_in_which_every_event_is_complete() {
    let trace: Value = serde_json::from_slice(&two_requests()).unwrap();
    assert_eq!(trace["otherData"]["lost"], 0);
    let events = trace["traceEvents"].as_array().unwrap();
    for event in events {
        assert!(event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string(), "{event}"),
            "X" => assert!(event["ts"].is_f64() && event["dur"].is_f64(), "{event}"),
            "i" => assert!(event["ts"].is_f64(), "{event}"),
            other => panic!("{other}: {event}"),
        }
    }
    let named = |name: &str| events.iter().filter(|it| it["name"] == name).count();
    assert_eq!(
        (named("serve"), named("popped"), named("host read")),
        (2, 2, 2)
    );
    assert_eq!(named("write disk0 InterruptACK"), 1);
}

#[test]
fn spans_of_a_thread_are_nested_or_disjoint() {
    let trace: Value = serde_json::from_slice(&two_requests()).unwrap();
    let spans: Vec<(u64, f64, f64)> = trace["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| {
            let ts = event["ts"].as_f64().unwrap();
            let end = ts + event["dur"].as_f64().unwrap();
            (event["tid"].as_u64().unwrap(), ts, end)
        })
        .collect();
    for (n, one) in spans.iter().enumerate() {
        for other in &spans[..n] {
            let apart = one.2 <= other.1 || other.2 <= one.1;
            let within =
                (one.1 >= other.1 && one.2 <= other.2) || (other.1 >= one.1 && other.2 <= one.2);
            assert!(one.0 != other.0 || apart || within, "{one:?} {other:?}");
        }
    }
}

#[test]
fn the_life_of_a_request_is_printed_in_order() {
    let trace = two_requests();
    let text = show::text_of(&trace, None).unwrap();
    let steps: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(2).unwrap())
        .collect();
    let expected = [
        "kick",
        "popped",
        "descriptor",
        "descriptor",
        "host",
        "used",
        "published",
        "interrupt",
        "ACK",
    ];
    assert_eq!(steps, expected, "{text}");
    assert!(text.contains("did not exit (ioeventfd)"), "{text}");
    assert!(text.contains("read 512 bytes at byte 1024"), "{text}");
    assert!(
        text.contains("[4] 0x80300000, 513 bytes, the device writes"),
        "{text}"
    );
}

#[test]
fn a_load_of_the_status_is_printed_with_whether_it_exited() {
    let in_place = show::text_of(&two_requests(), None).unwrap();
    assert!(
        in_place.contains("InterruptACK; its load of InterruptStatus did not exit (read in place)"),
        "{in_place}"
    );
    let trapped = show::text_of(
        &traced(&[test::STATUS], &[(test::ACK, 1), (test::NOTIFY, 0)]),
        None,
    )
    .unwrap();
    assert!(
        trapped.contains("status      the guest reads InterruptStatus, which exits to the VMM"),
        "{trapped}"
    );
    assert!(!trapped.contains("in place"), "{trapped}");
}

#[test]
fn a_request_starts_with_the_store_that_exited() {
    let text = show::text_of(&two_requests(), Some(1)).unwrap();
    let second = text.lines().nth(1).unwrap();
    assert!(
        second.contains("the guest stores 0x0 to QueueNotify, which exits to the VMM"),
        "{text}"
    );
    assert!(
        !text.contains("ioeventfd") && !text.contains("ACK"),
        "{text}"
    );
}

#[test]
fn a_request_that_a_vcpu_serves_is_within_its_exit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut trace = Trace::start(&path, Arc::new(test::names())).unwrap();
    trace.tracer().device("console");
    by("vcpu0", trace.tracer(), |tracer| {
        let note = Exit::Write(test::CONSOLE_NOTIFY, 1);
        let began = tracer.now();
        request(tracer, 0, 3);
        tracer.exit(note, began);
    });
    trace.finish();
    let text = show::text_of(&fs::read(&path).unwrap(), None).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].contains("stores 0x1 to QueueNotify"), "{text}");
    assert!(
        lines[2].contains("the vCPU's thread serves queue 0 at once"),
        "{text}"
    );
}

#[test]
fn an_absent_request_and_a_file_that_is_not_a_trace_are_refused() {
    let problem = show::text_of(&two_requests(), Some(9)).unwrap_err();
    assert!(
        problem.contains("it has no request 9 (2 requests"),
        "{problem}"
    );
    assert!(show::text_of(b"{}", None).is_err());
    let empty = br#"{"traceEvents":[]}"#;
    assert_eq!(show::text_of(empty, None).unwrap_err(), "it has no request");
}

#[test]
fn events_lost_to_a_full_ring_are_counted_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut trace = Trace::start(&path, Arc::new(test::names())).unwrap();
    let told = 40 * RING as u64;
    by("block", trace.tracer(), move |tracer| {
        (0..told).for_each(|_| tracer.event(0, Event::Raised));
    });
    trace.finish();
    let trace: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let lost = trace["otherData"]["lost"].as_u64().unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let kept = events.iter().filter(|event| event["ph"] == "i").count() as u64;
    assert_eq!(kept + lost, told);
}

#[test]
fn lanes_have_the_names_of_devices_and_outlive_threads() {
    let trace: Value = serde_json::from_slice(&two_requests()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let names = |kind: &str| -> Vec<_> {
        let named = events.iter().filter(|it| it["name"] == kind);
        named
            .map(|it| it["args"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("process_name"), ["hartvisor"]);
    let mut lanes = names("thread_name");
    lanes.retain(|name| name.starts_with("disk0"));
    assert_eq!(lanes, ["disk0 q0"], "one lane for two threads");
}

#[test]
fn the_rings_of_threads_that_ended_are_dropped_while_the_trace_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut trace = Trace::start(&folder.path().join("trace.json"), Arc::default()).unwrap();
    let rings: Vec<_> = (0..300)
        .map(|_| {
            let ring = trace.tracer().add_ring();
            Arc::downgrade(&ring.lost)
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    while rings.iter().any(|ring| ring.strong_count() > 0) {
        assert!(Instant::now() < deadline, "rings of ended threads are kept");
        thread::sleep(Duration::from_millis(10));
    }
    trace.finish();
}

#[test]
fn without_exits_the_output_does_not_mention_an_ioeventfd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut trace = Trace::start(&path, Arc::default()).unwrap();
    trace.tracer().device("disk0");
    by("block", trace.tracer(), |tracer| request(tracer, 0, 3));
    trace.finish();
    let text = show::text_of(&fs::read(&path).unwrap(), None).unwrap();
    assert!(text.contains("wakes for queue 0\n"), "{text}");
    assert!(!text.contains("ioeventfd"), "{text}");
}
