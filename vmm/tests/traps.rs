//! `make traps`: the guest's `bench traps` in the emulated host under its instruction clock, one
//! method of moving bytes per run. Produces the table in docs/virtio.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use observe::stats::report::Report;

mod support;

use support::lab::{self, guest, hartvisor, project, run, text};

/// The methods, by the guest's names, and their names in the table.
const WAYS: [(&str, &str); 15] = [
    ("uart", "serial port, one store per byte"),
    ("putchar", "SBI legacy putchar, one call per byte"),
    ("dbcn-byte", "SBI DBCN, one call per byte"),
    ("dbcn", "SBI DBCN, one call for all"),
    ("console-byte", "virtio console, one kick per byte"),
    ("console-line", "virtio console, one kick per line of 64"),
    ("console-batch", "virtio console, one kick for all"),
    ("disk", "disk, one kick per block of 4096"),
    ("disk-indirect", "… INDIRECT_DESC"),
    ("disk-event", "… EVENT_IDX"),
    ("disk-both", "… both"),
    ("disk-batch", "disk, one kick per 16 blocks"),
    ("disk-indirect-batch", "… INDIRECT_DESC"),
    ("disk-event-batch", "… EVENT_IDX"),
    ("disk-both-batch", "… both"),
];

const BEGIN: &str = "<!-- generated: make traps WRITE=1 -->\n";
const END: &str = "<!-- end of what is generated -->\n";

/// Rounds per method. The time is the median.
const ROUNDS: u64 = 5;

/// The cost of a run.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Exits to the kernel, and how many of them went on to user space.
    exits: u64,
    ours: u64,
    kicks: u64,
    interrupts: u64,
}

impl Cost {
    fn of(report: &Report) -> Cost {
        let queues = || report.devices.iter().flat_map(|device| &device.queues);
        Cost {
            exits: report.kvm.as_ref().unwrap().vcpus[0]["exits"],
            ours: report.vcpus.as_ref().unwrap()[0].total(),
            kicks: queues().map(|queue| queue.kicks).sum(),
            interrupts: report.devices.iter().filter_map(|it| it.interrupts).sum(),
        }
    }

    /// Returns the cost of one round: `self` is a run of [`ROUNDS`], `none` is one without any.
    fn of_a_round(self, none: Cost) -> Cost {
        let each = |all: u64, none| (all.saturating_sub(none) + ROUNDS / 2) / ROUNDS;
        Cost {
            exits: each(self.exits, none.exits),
            ours: each(self.ours, none.ours),
            kicks: each(self.kicks, none.kicks),
            interrupts: each(self.interrupts, none.interrupts),
        }
    }
}

#[test]
#[ignore = "a table for people: make traps"]
fn table() {
    let folder = tempfile::tempdir().unwrap();
    let disk = File::create(folder.path().join("image")).unwrap();
    disk.set_len(1 << 20).unwrap();
    let names: Vec<_> = WAYS.iter().map(|(name, _)| *name).collect();
    // The disk is in the emulated host's memory. Otherwise 9p would be measured.
    let script = format!(
        r#"cp "$1/image" /tmp/image
        for rounds in 0 {ROUNDS}; do for way in {}; do
            said=/tmp/$way-$rounds
            "$2" run --accel kvm --kernel "$3" --disk /tmp/image --console null --serial "file:$said" --no-rng \
                --cmdline "bench traps method=$way rounds=$rounds" --stats "$said.json"
            status=$?
            cp "$said" "$said.json" "$1"
            [ $status = 0 ] || {{ tail -n 5 "$said"; exit 1; }}
        done; done"#,
        names.join(" ")
    );
    let options = ["--icount", "--aia-guests", "2"];
    let mut command = lab::lab(&options, &[folder.path()]);
    command.args(["sh", "-c", &script, "sh"]).arg(folder.path());
    let output = run(command.arg(hartvisor()).arg(guest()), b"");
    assert!(output.status.success(), "{}", text(&output));
    let cost = |name: &str, rounds: u64| {
        let bytes = fs::read(folder.path().join(format!("{name}-{rounds}.json"))).unwrap();
        Cost::of(&serde_json::from_slice(&bytes).unwrap())
    };
    let mut table = String::from(
        "| way | bytes | µs | ns per byte | exits to the kernel | of these to the VMM | kicks seen | interrupts |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (name, title) in WAYS {
        let Some((bytes, us)) = spent(folder.path(), name) else {
            let _ = writeln!(table, "| {title} | | | | | | | |");
            continue;
        };
        let cost = cost(name, ROUNDS).of_a_round(cost(name, 0));
        let each = us as f64 * 1000.0 / bytes as f64;
        let Cost { exits, ours, kicks, interrupts } = cost;
        let _ = writeln!(
            table,
            "| {title} | {bytes} | {us} | {each:.1} | {exits} | {ours} | {kicks} | {interrupts} |"
        );
    }
    println!("{table}");
    if std::env::var_os("HARTVISOR_WRITE_DOCS").is_some() {
        let path = project().join("docs/virtio.md");
        let old = fs::read_to_string(&path).unwrap();
        let (head, rest) = old.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        fs::write(path, format!("{head}{BEGIN}\n{table}\n{END}{tail}")).unwrap();
    }
}

/// Parses bytes and microseconds from the guest's line `# traps: NAME BYTES bytes, US us, …`.
/// Returns `None` if there is no such method.
fn spent(folder: &Path, name: &str) -> Option<(u64, u64)> {
    let said = fs::read(folder.join(format!("{name}-{ROUNDS}"))).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mark = format!("# traps: {name} ");
    let line = said.lines().find_map(|line| line.split_once(&mark));
    assert!(line.is_some() || said.contains("# SKIP"), "{said}");
    let mut numbers = line?.1.split([' ', ',']).filter_map(|it| it.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
