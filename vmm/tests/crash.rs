//! The disk after a crash: the monitor is killed while Linux writes, the host's disk is full, the
//! image is truncated while it is used, the host's disk is read-only. In the lab, on RISC-V KVM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::process::Command;
use std::thread;

mod support;

use support::lab::{self, hartvisor, host_file, text};
use support::linux::{AT_CONSOLE, ext4, initramfs, succeed};
use support::session::Session;

/// The guest: writes files, and makes each durable before it reports it, with other writes at the
/// same time.
const WRITER: &str = r#"
mount /dev/vda /mnt || echo "guest: no mount"
rm -f /mnt/*
cycle=$(sed 's/.*cycle=\([0-9]*\).*/\1/' /proc/cmdline)
while :; do dd if=/dev/urandom of=/mnt/noise bs=64k count=32 2>/dev/null; done &
n=0
while :; do
    n=$((n + 1))
    yes "cycle $cycle file $n" | head -c $((n * 7919 % 100000 + 1)) >/mnt/file-$n
    sync
    echo "guest: synced $n"
done
"#;

/// The host: starts the monitor, kills it some time after the guest reported some files, prints
/// their number, and waits for a line before the next cycle.
const KILLER: &str = r#"
for cycle in $CYCLES; do
    # Otherwise the last cycle's output would be read until the monitor writes its own.
    : >/tmp/out
    "$HARTVISOR" run --accel kvm --memory 256M --no-reboot --kernel "$KERNEL" --initrd "$INITRD" --disk "$DISK" \
        --cmdline "console=hvc0 quiet panic=-1 cycle=$cycle" </dev/null >/tmp/out 2>&1 &
    monitor=$!
    # A guest that does not get this far runs into the time limit of lab/run.
    until grep -q "synced $((cycle % 5 + 1))" /tmp/out; do
        kill -0 $monitor || { cat /tmp/out; exit 1; }
        # Not more often: polling takes time from the guest.
        usleep 50000
    done
    usleep $((cycle * 7919 % 200 * 1000))
    kill -9 $monitor
    wait $monitor
    echo "status $?"
    # The last line may be incomplete.
    echo "cycle $cycle: $(grep -c '^guest: synced [0-9]*.$' /tmp/out)"
    read -r _
done
echo "no cycle is left"
"#;

/// Number of concurrent emulated hosts, each with its own disk: as many as most machines have CPUs.
const LANES: usize = 2;
/// Cycles per start of an emulated host, so that a hanging cycle is detected soon.
const BATCH: usize = 10;
/// Seconds of the emulator's process time: for its start, and for a cycle.
const START: usize = 60;
const CYCLE: usize = 120;

/// Returns how often the monitor is killed. `make crash` does it a hundred times.
fn cycles() -> usize {
    let wanted = std::env::var("HARTVISOR_CRASH_CYCLES");
    wanted.map_or(3, |wanted| wanted.parse().expect("a number of cycles"))
}

#[test]
fn what_linux_synced_outlives_the_killed_monitor() {
    let cycles: Vec<usize> = (1..=cycles()).collect();
    let lanes = cycles.chunks(cycles.len().div_ceil(LANES).max(1));
    let files: usize = thread::scope(|scope| {
        let lanes: Vec<_> = lanes.map(|lane| scope.spawn(|| survive(lane))).collect();
        let files = lanes.into_iter().map(|lane| lane.join().unwrap());
        files.sum()
    });
    println!("{} kills, {files} synced files", cycles.len());
}

/// Runs these cycles on one disk, and returns the number of synced files.
fn survive(cycles: &[usize]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let initrd = initramfs(folder.path(), "host", &format!("{AT_CONSOLE}{WRITER}"));
    let disk = ext4(folder.path());
    let batches = cycles.chunks(BATCH);
    batches
        .map(|batch| survive_batch(batch, folder.path(), &initrd, &disk))
        .sum()
}

/// Runs these cycles in one start of the emulated host.
fn survive_batch(cycles: &[usize], folder: &Path, initrd: &Path, disk: &Path) -> usize {
    let limit = START + CYCLE * cycles.len();
    let words: Vec<String> = cycles.iter().map(usize::to_string).collect();
    let mut command = lab::lab(&["--timeout", &limit.to_string()], &[folder]);
    command
        .args(["env", &format!("CYCLES={}", words.join(" "))])
        .args(variables(initrd))
        .arg(format!("DISK={}", disk.display()))
        .args(["sh", "-c", KILLER]);
    let mut host = Session::start(&command);
    let mut files = 0;
    for cycle in cycles {
        let limit = limit as u64;
        host.expect("status 137\n", limit);
        host.expect(&format!("cycle {cycle}: "), limit);
        let synced = host.line(limit).parse().unwrap();
        check(disk, *cycle, synced);
        println!("cycle {cycle}: {synced} synced files, all there");
        files += synced;
        host.send("go on\n");
    }
    let (status, said) = host.end(limit as u64);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("no cycle is left"), "{said}");
    files
}

/// Returns shell variables with the kernel and the programs of a guest.
fn variables(initrd: &Path) -> [String; 3] {
    [
        format!("HARTVISOR={}", hartvisor().display()),
        format!("KERNEL={}", host_file("vmlinux").display()),
        format!("INITRD={}", initrd.display()),
    ]
}

/// Replays the journal as the next mount would. Then the file system must be consistent, and the
/// files must be complete.
fn check(disk: &Path, cycle: usize, synced: usize) {
    let mut replay = Command::new("/sbin/e2fsck");
    let replayed = replay.args(["-y", "-E", "journal_only"]).arg(disk);
    let replayed = replayed.output().unwrap();
    assert!(
        matches!(replayed.status.code(), Some(0 | 1)),
        "{replayed:?}"
    );
    succeed(Command::new("e2fsck").arg("-fn").arg(disk));
    assert!(synced > 0);
    for n in 1..=synced {
        let line = format!("cycle {cycle} file {n}\n");
        let len = n * 7919 % 100_000 + 1;
        let whole: String = line.chars().cycle().take(len).collect();
        let cat = format!("cat /file-{n}");
        let found = succeed(Command::new("debugfs").args(["-R", &cat]).arg(disk));
        assert!(
            found == whole,
            "file {n} of {synced} in cycle {cycle}: {} bytes of {len}",
            found.len()
        );
    }
}

/// Runs a script in the lab with a guest of this /init, and returns all output.
fn scene(init: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let initrd = initramfs(folder.path(), "host", &format!("{AT_CONSOLE}{init}"));
    // `guest DISK`: its output goes to /tmp/out, its input comes from /tmp/in.
    let guest = r#"
mkfifo /tmp/in; exec 3<>/tmp/in
mkdir /tmp/small; mount -t tmpfs -o size=16m none /tmp/small
guest() {
    "$HARTVISOR" run --accel kvm --memory 256M --no-reboot --kernel "$KERNEL" --initrd "$INITRD" --disk "$1" \
        --cmdline "console=hvc0 quiet panic=-1" </tmp/in >/tmp/out 2>&1 &
    monitor=$!
}
said() { until grep -q "$1" /tmp/out; do kill -0 $monitor || break; usleep 10000; done; }
ended() { wait $monitor; status=$?; cat /tmp/out; echo "host: status $status"; }
"#;
    let mut command = lab::lab(&[], &[folder.path()]);
    command.arg("env").args(variables(&initrd));
    command.args(["sh", "-c", &format!("{guest}{script}")]);
    let output = lab::run(&mut command, b"");
    let said = text(&output).replace('\r', "");
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[track_caller]
fn assert_said(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            said.lines().any(|it| it == *line),
            "{line:?} is not in {said}"
        );
    }
}

#[test]
fn a_full_host_disk_is_an_io_error_and_loses_nothing_that_was_flushed() {
    let init = r#"
sum() { dd if=/dev/vda bs=1M count=8 2>/dev/null | sha256sum; }
dd if=/dev/urandom of=/dev/vda bs=1M count=8 conv=fsync 2>/dev/null && echo "guest: flushed"
before=$(sum)
dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=24 conv=fsync 2>/dev/null || echo "guest: no room"
echo 3 >/proc/sys/vm/drop_caches
[ "$(sum)" = "$before" ] && echo "guest: kept"
echo "guest: make room"
read -r _
dd if=/dev/urandom of=/dev/vda bs=1M seek=1 count=2 conv=fsync 2>/dev/null && echo "guest: writes again"
poweroff -f
"#;
    let said = scene(
        init,
        r#"
truncate -s 64M /tmp/small/image
dd if=/dev/zero of=/tmp/small/other bs=1M count=4 2>/dev/null
guest /tmp/small/image
said "make room"
rm /tmp/small/other; echo done >&3
ended
"#,
    );
    let lines = [
        "guest: flushed",
        "guest: no room",
        "guest: kept",
        "guest: writes again",
    ];
    assert_said(&said, &lines);
    assert_said(&said, &["host: status 0"]);
    // Reported once, however many requests failed.
    assert_eq!(said.matches("No space left").count(), 1, "{said}");
}

#[test]
fn a_disk_cut_short_beneath_the_guest_is_an_io_error_beyond_the_cut() {
    let init = r#"
dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null && echo "guest: whole"
echo 3 >/proc/sys/vm/drop_caches
echo "guest: cut it"
read -r _
dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null && echo "guest: the front is there"
dd if=/dev/vda of=/dev/null bs=1M skip=4 count=1 2>/dev/null || echo "guest: the rest is not"
poweroff -f
"#;
    let said = scene(
        init,
        r#"
dd if=/dev/zero of=/tmp/small/image bs=1M count=8 2>/dev/null
guest /tmp/small/image
said "cut it"
truncate -s 4M /tmp/small/image; echo done >&3
ended
"#,
    );
    let lines = [
        "guest: whole",
        "guest: the front is there",
        "guest: the rest is not",
    ];
    assert_said(&said, &lines);
    assert_said(&said, &["host: status 0"]);
}

#[test]
fn an_image_on_a_read_only_mount_is_refused_unless_it_is_readonly() {
    let init = r#"
echo "guest: ro $(cat /sys/block/vda/ro)"
dd if=/dev/vda bs=5 count=1 2>/dev/null; echo
dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null || echo "guest: cannot write"
poweroff -f
"#;
    let said = scene(
        init,
        r#"
dd if=/dev/zero of=/tmp/small/image bs=1M count=1 2>/dev/null
printf hello | dd of=/tmp/small/image conv=notrunc 2>/dev/null
mount -o remount,ro /tmp/small
guest /tmp/small/image
ended
guest /tmp/small/image,readonly
ended
"#,
    );
    assert!(said.contains("hartvisor: "), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    let lines = [
        "host: status 2",
        "guest: ro 1",
        "hello",
        "guest: cannot write",
    ];
    assert_said(&said, &lines);
    assert_said(&said, &["host: status 0"]);
}
