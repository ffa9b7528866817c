//! Pauses guests through a shell's job control, on RISC-V KVM in the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::lab::{self, guest, hartvisor, run, text};
#[cfg(feature = "full")]
use support::linux;

/// Shell functions for the host. `stopped PID` waits until the process is stopped.
const STOPPED: &str = r#"
stopped() { until grep -q '^State:.T' /proc/$1/status; do sleep 0.1; done; }
suspend() { kill -TSTP $1; stopped $1; }
"#;

#[test]
fn sigtstp_stops_the_monitor_and_the_guest_goes_on_after_sigcont() {
    let script = format!(
        "{STOPPED}
         mkfifo /tmp/in /tmp/out
         {} run --accel kvm --kernel {} --cmdline echo </tmp/in >/tmp/out & vmm=$!
         exec 3>/tmp/in 4</tmp/out; read -r line <&4; echo said=$line
         for n in 1 2 3; do
             suspend $vmm; kill -CONT $vmm
             echo typed$n >&3
             while read -r line <&4; do case $line in *typed$n*) echo came=$n; break; esac; done
         done
         suspend $vmm; kill -TERM $vmm; kill -CONT $vmm
         wait $vmm; echo status=$?",
        hartvisor().display(),
        guest().display()
    );
    let output = run(lab::lab(&[], &[]).args(["sh", "-c", &script]), b"");
    let text = text(&output);
    for line in ["came=1", "came=2", "came=3", "status=143"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// Runs Debian's kernel with an /init that continues with `init`, under a host script that
/// continues with `script`: `$vmm` is the monitor, descriptors 3 and 4 are the guest's console, and
/// `seen TEXT` copies its lines up to one with the text. Returns everything that was written. The
/// disk must be clean afterwards.
#[cfg(feature = "full")]
fn debian(init: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let init = format!("mkdir -p /tmp\n{}{init}", linux::AT_CONSOLE);
    let initramfs = linux::initramfs(folder.path(), "host", &init);
    let disk = linux::ext4(folder.path());
    let script = format!(
        "{STOPPED}
         seen() {{ while read -r line <&4; do echo \"$line\"; case $line in *\"$1\"*) break; esac; done; }}
         mkfifo /tmp/in /tmp/out
         {} run --accel kvm --cpus 2 --memory 512M --no-reboot --cmdline 'console=hvc0 quiet' \
             --kernel {} --initrd {} --disk {} </tmp/in >/tmp/out & vmm=$!
         exec 3>/tmp/in 4</tmp/out
         {script}
         cat <&4; wait $vmm; echo status=$?",
        hartvisor().display(),
        lab::host_file("vmlinux").display(),
        initramfs.display(),
        disk.display(),
    );
    let mut command = lab::lab(&["--cpus", "2", "--timeout", "900"], &[folder.path()]);
    let text = text(&run(command.args(["sh", "-c", &script]), b""));
    assert!(text.contains("status=0"), "{text}");
    linux::assert_clean(&disk);
    text
}

/// A guest with two busy harts, stopped for longer than the timeout of its watchdog. Its clock may
/// not run further than the host's did, without the stop.
#[cfg(feature = "full")]
#[test]
fn a_busy_debian_that_was_stopped_for_30_s_reports_no_lockup_and_no_lost_time() {
    let text = debian(
        r#"echo 1 >/proc/sys/kernel/watchdog; echo 10 >/proc/sys/kernel/watchdog_thresh
(while :; do :; done) & (while :; do :; done) &
sleep 3
echo "guest: ready"; read -r line
read -r up rest </proc/uptime; echo "guest: before $up"
read -r line
read -r up rest </proc/uptime; echo "guest: after $up"
sleep 3
echo "guest: lockups $(dmesg | grep -c 'soft lockup\|detected stall')"
poweroff -f
"#,
        r#"now() { read -r up rest </proc/uptime; echo "host: $1 $up"; }
         seen 'guest: ready'; now begin
         echo go >&3; seen 'guest: before'
         suspend $vmm; now stop; sleep 30; now continue; kill -CONT $vmm
         echo go >&3; seen 'guest: after'; now end"#,
    );
    let number = |name: &str| -> f64 {
        let rest = text
            .split(name)
            .nth(1)
            .unwrap_or_else(|| panic!("no {name:?} in {text}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(number("guest: lockups "), 0.0, "{text}");
    let between = |from, to| number(to) - number(from);
    let in_guest = between("guest: before ", "guest: after ");
    let on_host = between("host: begin ", "host: end ");
    let stopped = between("host: stop ", "host: continue ");
    // Both read hundredths of a second.
    assert!(stopped >= 29.0, "{text}");
    assert!(in_guest <= on_host - stopped + 1.0, "{text}");
}

/// Each pause comes at a different point of a request.
#[cfg(feature = "full")]
#[test]
fn two_hundred_pauses_while_debian_writes_leave_its_disk_right() {
    let text = debian(
        r#"mount /dev/vda /mnt
(read -r line </dev/hvc0; : >/tmp/end) &
echo "guest: writing"
while [ ! -e /tmp/end ]; do
    dd if=/dev/urandom of=/mnt/data bs=64k count=256 conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(sha256sum </mnt/data)" = "$(sha256sum </mnt/data)" ] || echo "guest: WRONG"
done
cp /mnt/data /tmp/copy; umount /mnt; mount /dev/vda /mnt
cmp /mnt/data /tmp/copy && echo "guest: same"
umount /mnt; dmesg | grep 'I/O error\|soft lockup\|detected stall\|blocked for more'
poweroff -f
"#,
        "seen 'guest: writing'
         n=0; while [ $n -lt 200 ]; do n=$((n + 1)); suspend $vmm; kill -CONT $vmm; sleep 0.0$((n % 10)); done
         echo pauses=$n; echo end >&3",
    );
    for line in ["pauses=200", "guest: same"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for line in [
        "WRONG",
        "I/O error",
        "soft lockup",
        "detected stall",
        "blocked for",
    ] {
        assert!(!text.contains(line), "{line}: {text}");
    }
}
