//! The power key: SIGTERM and Ctrl-a q ask a guest to power off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;

use support::lab::{self, cached, hartvisor, run, text};
use support::linux::initramfs;
use support::session::Session;

/// The guest's /init: waits for the press and the release, then obeys.
const INIT: &str = r#"modprobe virtio_input; modprobe evdev
exec >/dev/ttyS0 2>&1
while [ ! -c /dev/input/event0 ]; do sleep 0.1; done
input=/sys/class/input/event0/device
echo "guest: $(cat $input/name), keys $(cat $input/capabilities/key)"
exec 4</dev/input/event0
echo "guest: waiting"
# An event has 24 bytes: its time, type, code and value. A press and a release are two, each with a
# report.
dd bs=24 count=4 <&4 >/events 2>/dev/null
for event in 0 1 2 3; do
echo "guest: event $(dd if=/events bs=24 skip=$event count=1 2>/dev/null | tail -c 8 | hexdump -e '1/2 "%d " 1/2 "%d " 1/4 "%d"')"
done
"#;

const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// Time limit in seconds per step.
const STEP: u64 = 300;

/// The options of a run of Debian's kernel with this initial RAM disk, for a shell.
fn linux(initramfs: &Path) -> String {
    format!(
        "--memory 256M --kernel {} --initrd {} --no-reboot=9 --cmdline '{CMDLINE}'",
        cached("host", "vmlinux").display(),
        initramfs.display(),
    )
}

/// Starts Debian's kernel under QEMU with this continuation of [`INIT`], and sends SIGTERM once it
/// waits for events. The guest has then seen the key.
fn terminated_under_qemu(folder: &Path, then: &str) -> Session {
    let initramfs = initramfs(folder, "host", &format!("{INIT}{then}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command
        .args(["run", "--accel", "qemu", "--console", "null"])
        .args(["--shutdown-timeout", "100000", "--cmdline", CMDLINE])
        .arg("--kernel")
        .arg(cached("host", "vmlinux"))
        .arg("--initrd")
        .arg(initramfs);
    let mut guest = Session::start(&command);
    guest.expect("guest: waiting", STEP);
    guest.signal(Signal::SIGTERM);
    guest.expect("asked the guest to power off", STEP);
    guest.expect("guest: event 1 116 1", STEP);
    guest
}

#[test]
fn sigterm_asks_linux_to_power_off() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = initramfs(folder.path(), "host", &format!("{INIT}poweroff -f\n"));
    let script = format!(
        "mkfifo /tmp/out
         {} run --accel kvm {} --shutdown-timeout 100000 >/tmp/out 2>/tmp/err </dev/null &
         vmm=$!; exec 3</tmp/out
         while read -r line <&3; do
             echo \"$line\"
             case $line in *'guest: waiting'*) kill -TERM $vmm ;; esac
         done
         wait $vmm; echo status=$?; cat /tmp/err",
        hartvisor().display(),
        linux(&initramfs),
    );
    let mut command = lab::lab(&[], &[folder.path()]);
    let seen = text(&run(command.args(["sh", "-c", &script]), b""));
    for line in [
        "guest: Power Button, keys 10000000000000 0",
        "guest: event 1 116 1",
        "guest: event 0 0 0",
        "guest: event 1 116 0",
        "status=0",
        "hartvisor: asked the guest to power off; the run ends at a second SIGTERM",
    ] {
        assert!(seen.contains(line), "{line:?} is not in {seen}");
    }
}

/// The guest receives the press and keeps running.
#[test]
fn ctrl_a_q_asks_and_a_guest_that_does_not_power_off_in_time_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{INIT}while :; do sleep 1; done\n");
    let initramfs = initramfs(folder.path(), "host", &script);
    let script = format!(
        "{} run --accel kvm {} --shutdown-timeout 20; echo status=$?",
        hartvisor().display(),
        linux(&initramfs),
    );
    let mut terminal = lab::terminal(&[folder.path()], &script);
    terminal.expect("guest: waiting");
    terminal.type_in(b"\x01q");
    terminal.expect("asked the guest to power off");
    terminal.expect("status=0");
}

#[test]
fn sigterm_asks_linux_under_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let guest = terminated_under_qemu(folder.path(), "poweroff -f\n");
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}

#[test]
fn a_second_sigterm_ends_a_guest_that_does_not_power_off() {
    let folder = tempfile::tempdir().unwrap();
    let guest = terminated_under_qemu(folder.path(), "while :; do sleep 1; done\n");
    let again = guest.id();
    let thread = std::thread::spawn(move || {
        // One that comes within half a second of the first is the same.
        let process = Pid::from_raw(again.cast_signed());
        while kill(process, Signal::SIGTERM).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let (status, seen) = guest.end(STEP);
    thread.join().unwrap();
    assert_eq!(status, Some(143), "{seen}");
}
