//! Statistics and traces of a run, on KVM in the emulated host and under QEMU on this machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use observe::stats::report::Report;
use serde_json::Value;

mod support;

use support::lab::{self, guest, hartvisor, run, text};
use support::program;

/// Blocks of 4 KiB read by the guest's `disk` method.
const BLOCKS: u64 = 64;
const BYTES: u64 = BLOCKS * 4096;

fn disk(folder: &Path) {
    let disk = File::create(folder.join("disk")).unwrap();
    disk.set_len(1 << 20).unwrap();
}

fn report(folder: &Path, name: &str) -> Report {
    let bytes = fs::read(folder.join(name)).unwrap();
    serde_json::from_slice(&bytes).expect(name)
}

fn assert_disk(report: &Report) {
    let disk = report.devices.iter().find(|it| it.name == "disk0").unwrap();
    let (queue, host) = (&disk.queues[0], disk.host.as_ref().unwrap());
    assert_eq!(
        (queue.requests, host.reads, host.bytes_read),
        (BLOCKS, BLOCKS, BYTES)
    );
    assert_eq!(
        (queue.bytes_from_guest, queue.bytes_to_guest),
        (16 * BLOCKS, BYTES + BLOCKS)
    );
    assert_eq!((queue.latency.count, host.latency.count), (BLOCKS, BLOCKS));
    assert!(queue.kicks > 0 && queue.interrupts_wanted > 0, "{queue:?}");
    // All in nanoseconds, regardless of the ticks in which they were counted.
    for latency in [&queue.latency, &host.latency] {
        assert!(
            latency.sum > 0 && latency.max < report.nanoseconds,
            "{latency:?}"
        );
    }
    assert_eq!((disk.failed, disk.broken, host.errors), (0, 0, 0));
}

/// One start of the emulated host: a run with statistics and a trace until its end, and a run that
/// gets a request.
#[test]
fn a_run_on_kvm_is_counted_and_traced() {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path());
    let script = r#"cd "$1"
        "$2" run --accel kvm --kernel "$3" --disk disk --cmdline 'bench traps method=disk rounds=1' \
            --stats end.json --trace trace.json || exit
        "$2" trace show trace.json || exit
        "$2" run --accel kvm --kernel "$3" --disk disk --cmdline 'bench traps method=disk-both-batch' \
            --rings rings.json || exit
        "$2" rings rings.json || exit
        "$2" rings rings.json --svg rings.svg || exit
        mkfifo in out
        "$2" run --accel kvm --kernel "$3" --cmdline echo --stats live.json --rings live-rings.json <in >out &
        exec 3>in; read -r line <out
        until "$2" rings live-rings.json --device console --queue 0 >shown 2>/dev/null && [ -s live.json ]; do
            kill -USR1 $!; sleep 0.1
        done
        cp live.json asked.json; cat shown
        kill -TERM $!; wait $!; echo status=$?"#;
    let mut command = lab::lab(&["--aia"], &[folder.path()]);
    command.args(["sh", "-c", script, "sh"]).arg(folder.path());
    let output = run(command.arg(hartvisor()).arg(guest()), b"");
    let text = text(&output);
    assert!(text.contains("status=143"), "{text}");

    let report = self::report(folder.path(), "end.json");
    assert_eq!(
        (&*report.accel, report.end.as_deref()),
        ("kvm", Some("power-off"))
    );
    assert_disk(&report);
    let vcpu = report.vcpus.as_ref().unwrap()[0];
    // Loads of virtio registers do not exit: the guest has them mapped as memory.
    assert!(
        vcpu.mmio_write > 0 && vcpu.sbi > 0 && vcpu.ended == 1,
        "{vcpu:?}"
    );
    let registers = report.registers.as_ref().unwrap();
    let accesses: u64 = registers.iter().map(|it| it.reads + it.writes).sum();
    assert_eq!(accesses, vcpu.mmio_read + vcpu.mmio_write);
    let ack = |it: &&observe::stats::report::Register| {
        it.register == "InterruptACK" && it.device == "disk0"
    };
    assert!(registers.iter().find(ack).unwrap().writes > 0);
    let kvm = report.kvm.unwrap();
    assert!(kvm.vcpus[0]["exits"] > vcpu.total(), "{kvm:?}");
    let memory = report.memory.unwrap();
    assert!(memory.pss_kib > 0 && memory.guest_ram_kib > 0, "{memory:?}");

    assert_trace(&fs::read(folder.path().join("trace.json")).unwrap());
    let steps = [
        "kick",
        "popped",
        "descriptor",
        "host",
        "used",
        "published",
        "interrupt",
        "ACK",
    ];
    let mut rest = text.split_once("disk0 queue 0").expect(&text).1;
    for step in steps {
        rest = rest
            .split_once(&format!("  {step} "))
            .unwrap_or_else(|| panic!("{step}: {text}"))
            .1;
    }
    assert!(text.contains("(ioeventfd)"), "{text}");
    assert!(text.contains("(read in place)"), "{text}");

    for part in [
        "disk0 queue 0, at the kick with the most requests in flight: 64 descriptors, 16 chains in flight",
        "its table: [0] ",
        // The console waits for input in all the buffers that it was given.
        "console queue 0, when the file was written: 16 descriptors, 16 chains in flight",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let drawing = fs::read_to_string(folder.path().join("rings.svg")).unwrap();
    assert!(drawing.contains("class=\"device\""), "{drawing}");

    let asked = self::report(folder.path(), "asked.json");
    assert_eq!(asked.end, None);
    assert!(
        asked.devices[0].queues[1].requests > 0,
        "the greeting was sent: {asked:?}"
    );
    let ended = self::report(folder.path(), "live.json");
    assert_eq!(ended.end.as_deref(), Some("signal 15"));
}

/// Asserts that nothing was dropped, all disk requests are present, and spans of a thread do not
/// overlap.
fn assert_trace(bytes: &[u8]) {
    let trace: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(trace["otherData"]["lost"], 0);
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |name: &str, device: &str| {
        let matching = events
            .iter()
            .filter(|it| it["name"] == name && it["args"]["device"] == device);
        matching.count() as u64
    };
    assert_eq!(of("host read", "disk0"), BLOCKS);
    assert_eq!(
        (of("popped", "disk0"), of("used", "disk0")),
        (BLOCKS, BLOCKS)
    );
    assert!(of("interrupt", "disk0") > 0);
    let mut spans: Vec<_> = events
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| {
            let (ts, dur) = (
                event["ts"].as_f64().unwrap(),
                event["dur"].as_f64().unwrap(),
            );
            (event["tid"].as_u64().unwrap(), ts, ts + dur)
        })
        .collect();
    // If two start at the same time, the outer one comes first.
    spans.sort_by(|one, other| {
        let begin = one.0.cmp(&other.0).then(one.1.total_cmp(&other.1));
        begin.then(other.2.total_cmp(&one.2))
    });
    let mut open: Vec<(u64, f64)> = Vec::new();
    for (thread, begin, end) in spans {
        // Times are in microseconds. Less than a nanosecond is a rounding error.
        open.retain(|(other, until)| *other == thread && *until > begin + 0.001);
        if let Some((_, until)) = open.last() {
            assert!(end <= until + 0.001, "{begin} to {end} ends after {until}");
        }
        open.push((thread, end));
    }
}

#[test]
fn under_qemu_our_devices_are_counted_and_traced_and_the_rest_is_null() {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path());
    let at = |name: &str| folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args([
        "run",
        "--accel",
        "qemu",
        "--cmdline",
        "bench traps method=disk rounds=1",
    ]);
    command
        .arg("--kernel")
        .arg(guest())
        .arg("--disk")
        .arg(at("disk"));
    command
        .arg("--stats")
        .arg(at("stats"))
        .arg("--trace")
        .arg(at("trace"));
    command.args(["--serial", "stdio", "--console", "null"]);
    let output = program::output(&command);
    assert!(output.status.success(), "{}", text(&output));
    let report = self::report(folder.path(), "stats");
    assert_eq!(report.accel, "qemu");
    assert_disk(&report);
    assert!(report.vcpus.is_none() && report.kvm.is_none() && report.registers.is_none());
    assert_trace_of_qemu(&fs::read(at("trace")).unwrap());
}

fn assert_trace_of_qemu(bytes: &[u8]) {
    let trace: Value = serde_json::from_slice(bytes).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let reads = events.iter().filter(|it| it["name"] == "host read");
    assert_eq!(reads.count() as u64, BLOCKS);
}
