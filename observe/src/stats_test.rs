use std::collections::BTreeMap;
use std::fs;

use devices::observe::{DeviceObserver, Event, Figures, HostCall};

use super::*;
use crate::exit::{Exit, test};

/// Statistics of a run on KVM with a console and a disk, with some events.
fn busy(target: &Path) -> Stats {
    let stats = Stats::new(target, 256 << 20, Arc::new(test::names())).unwrap();
    stats.vm_started(10_000_000);
    stats.device("console", "console".into(), 2, true);
    let disk = stats.device("disk0", "block".into(), 1, true);
    for event in [
        Event::Kicked { queue: 0 },
        Event::Popped {
            queue: 0,
            head: 5,
            descriptors: 3,
            readable: 16,
            writable: 4097,
            waiting: 2,
        },
        Event::Host { call: HostCall::Read, offset: 0, len: 4096 },
        Event::HostDone { ok: true },
        Event::Used { queue: 0, head: 5, written: 4097 },
        Event::Published { queue: 0, index: 1, count: 1, interrupt: true },
        Event::Raised,
        Event::Idle,
    ] {
        disk.see(event);
    }
    let vcpu = stats.vcpu(1);
    vcpu.count(Exit::Write(test::ACK, 1));
    vcpu.count(Exit::Read(test::STATUS));
    vcpu.count(Exit::Interrupted);
    let exits = |count| BTreeMap::from([("exits".to_owned(), count)]);
    stats.vm_stopped(&Kvm { vm: BTreeMap::new(), vcpus: vec![exits(30), exits(3)] });
    stats
}

#[test]
fn the_events_of_vcpus_and_devices_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let report = busy(&folder.path().join("stats")).report(None, Some("power-off".into()));
    assert_eq!(
        (&*report.accel, report.end.as_deref()),
        ("kvm", Some("power-off"))
    );
    let vcpus = report.vcpus.unwrap();
    assert_eq!(
        vcpus.iter().map(report::Vcpu::total).collect::<Vec<_>>(),
        [0, 3]
    );
    let registers: Vec<_> = report.registers.unwrap();
    let named: Vec<_> = registers
        .iter()
        .map(|it| (&*it.device, &*it.register, it.reads, it.writes))
        .collect();
    let expected = [
        ("disk0", "InterruptACK", 0, 1),
        ("disk0", "InterruptStatus", 1, 0),
    ];
    assert_eq!(named, expected);
    let disk = &report.devices[1];
    let queue = &disk.queues[0];
    assert_eq!((queue.kicks, queue.requests, queue.batches), (1, 1, 1));
    assert_eq!((queue.bytes_from_guest, queue.bytes_to_guest), (16, 4097));
    assert_eq!(
        (queue.interrupts_wanted, queue.interrupts_suppressed),
        (1, 0)
    );
    assert_eq!((queue.depth.max, queue.latency.count), (2, 1));
    let host = disk.host.as_ref().unwrap();
    assert_eq!((host.reads, host.bytes_read, host.errors), (1, 4096, 0));
    assert_eq!(disk.interrupts, Some(1));
    assert!(report.devices[0].host.is_none());
}

#[test]
fn counts_continue_across_a_reboot_and_kvms_are_added_up() {
    let folder = tempfile::tempdir().unwrap();
    let stats = busy(&folder.path().join("stats"));
    stats.vm_started(10_000_000);
    let disk = stats.device("disk0", "block".into(), 1, true);
    disk.see(Event::Kicked { queue: 0 });
    let present =
        Kvm { vm: BTreeMap::new(), vcpus: vec![BTreeMap::from([("exits".to_owned(), 4)])] };
    let report = stats.report(Some(&present), None);
    assert_eq!((report.reboots, report.end), (1, None));
    assert_eq!(report.devices[1].queues[0].kicks, 2);
    let kvm = report.kvm.unwrap();
    assert_eq!((kvm.vcpus[0]["exits"], kvm.vcpus[1]["exits"]), (34, 3));
}

#[test]
fn each_report_replaces_the_file_and_reads_back_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats.json");
    let stats = busy(&path);
    assert_eq!(fs::read(&path).unwrap(), b"", "created at the start");
    stats.write(None, None);
    let first: Report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(first.end, None);
    stats.write(None, Some("signal 15".into()));
    let last: Report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(last.end.as_deref(), Some("signal 15"));
    assert_eq!(last.devices, first.devices);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A device with one figure.
struct Fixed(u64);

impl Figures for Fixed {
    fn figures(&self) -> Vec<(&'static str, u64)> {
        vec![("actual_bytes", self.0)]
    }
}

#[test]
fn the_figures_of_a_device_are_those_since_the_last_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let stats = busy(&folder.path().join("stats"));
    for value in [4096, 8192] {
        stats
            .device("disk0", "block".into(), 1, true)
            .figures(Arc::new(Fixed(value)));
        let report = stats.report(None, None);
        let expected = BTreeMap::from([("actual_bytes".to_owned(), value)]);
        assert_eq!(report.devices[1].figures, expected);
        assert!(report.devices[0].figures.is_empty());
        let line = format!("disk0 actual_bytes  {value}");
        let text = table::text(&report);
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn with_qemu_unknown_values_are_null() {
    let folder = tempfile::tempdir().unwrap();
    let stats = Stats::new(&folder.path().join("stats"), 256 << 20, Arc::default()).unwrap();
    stats.device("disk0", "block".into(), 1, false);
    let report = serde_json::to_value(stats.report(None, None)).unwrap();
    assert_eq!(report["accel"], "qemu");
    for name in ["vcpus", "registers", "sbi", "kvm"] {
        assert!(report[name].is_null(), "{name}");
    }
    assert!(report["devices"][0]["interrupts"].is_null());
}

#[test]
fn the_table_has_the_events_in_aligned_columns() {
    let folder = tempfile::tempdir().unwrap();
    let text = table::text(&busy(&folder.path().join("stats")).report(None, None));
    assert!(text.contains("disk0 InterruptACK"), "{text}");
    assert!(
        text.contains("stage-2 faults and the host's interrupts"),
        "{text}"
    );
    let line = |start| text.lines().find(|line| line.starts_with(start)).unwrap();
    assert_eq!(
        line("exits to the VMM").len(),
        line("vcpu1").len(),
        "{text}"
    );
}
