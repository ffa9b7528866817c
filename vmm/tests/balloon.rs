//! The memory balloon: Debian's kernel as a guest gives memory back to the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use observe::stats::report::Report;

mod support;

use support::lab::{self, hartvisor, host_file, run, text};
use support::linux;
use support::session::Session;

/// How long a step may take, in seconds.
const STEP: u64 = 300;

/// The guest's side: a file whose content must stay, and another one that touches most of RAM.
const GUEST: &str = r#"
while [ ! -c /dev/hvc0 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
modprobe virtio_balloon
mem() { while read -r name value _; do [ $name != $1: ] || echo $value; done </proc/meminfo; }
touch_all() { dd if=/dev/zero of=/mnt/big bs=1M count=$(($(mem MemAvailable) / 1024 - 24)) 2>/dev/null; }
mount -t tmpfs -o size=100% none /mnt
dd if=/dev/urandom of=/mnt/data bs=1M count=4 2>/dev/null
sum=$(sha256sum </mnt/data)
total=$(mem MemTotal)
touch_all
echo "guest: touched $(du -m /mnt/big)"
"#;

/// The end of both: the file is intact, and all memory can be used.
const INTACT: &str = r#"
touch_all
[ "$(sha256sum </mnt/data)" = "$sum" ] && echo guest: intact
read -r _
poweroff -f
"#;

/// Gives memory up when the host asks for it, and takes it back.
const TARGET: &str = r#"
rm /mnt/big
echo guest: ready
while [ $(mem MemTotal) -gt $((total - 120 * 1024)) ]; do sleep 0.2; done
echo guest: inflated
while [ $(mem MemTotal) -lt $((total - 1024)) ]; do sleep 0.2; done
echo guest: deflated
"#;

/// Only frees memory.
const FREES: &str = r#"
read -r _
rm /mnt/big
echo guest: ready
read -r _
echo guest: total $((total - $(mem MemTotal)))
"#;

/// The host's side: `rss` is the memory of the monitor in MiB, `fell` waits until that is less.
const HOST: &str = r#"
cd /tmp
rss() { awk '/^(VmRSS|HugetlbPages):/ { sum += $2 } END { print int(sum / 1024) }' /proc/$vmm/status; }
free_huge() { awk '/^HugePages_Free/ { print $2 }' /proc/meminfo; }
fell() {
    for _ in $(seq 200); do
        [ "$(rss)" -gt "$1" ] || break
        sleep 0.3
    done
    echo "before=$before after=$(rss)"
}
mkfifo in out
echo 0 >size
HARTVISOR_LOG=info $run <in >out 2>log & vmm=$!
exec 3>in 4<out
while read -r line <&4; do
    echo "$line"
    case $line in
    *touched*) before=$(rss); echo "free-huge=$(free_huge)"; touched;;
    *ready*) ready;;
    *inflated*) fell $((before - 80)); echo 0 >size; kill -USR2 $vmm;;
    *intact*)
        echo "again=$(rss)"
        kill -USR1 $vmm
        for _ in $(seq 200); do grep -q "guest's memory" log && break; sleep 0.3; done
        echo go >&3;;
    esac
done
wait $vmm; echo status=$?
grep balloon log
[ ! -e stats ] || echo "stats=$(tr -d '\n' <stats)"
"#;

/// Runs the guest with this RAM and balloon, and these answers of the host.
fn balloon(folder: &Path, memory: &str, balloon: &str, steps: &str, answers: &str) -> String {
    let init = format!("{GUEST}{steps}{INTACT}");
    with_init(folder, memory, balloon, &init, answers)
}

/// The same with this /init.
fn with_init(folder: &Path, memory: &str, balloon: &str, init: &str, answers: &str) -> String {
    let initramfs = linux::initramfs(folder, "host", init);
    let script = format!(
        "{answers}
         run='{} run --accel kvm --memory {memory} --balloon {balloon} --serial null --kernel {} \
             --initrd {} --cmdline console=hvc0'{HOST}",
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    fs::write(folder.join("host"), script).unwrap();
    let mut host = lab::lab(&[], &[folder]);
    text(&run(host.arg("sh").arg(folder.join("host")), b""))
}

/// Returns the number behind the first `name=`.
fn number(text: &str, name: &str) -> i64 {
    let name = format!("{name}=");
    let words = text.split_whitespace();
    let number = words.filter_map(|word| word.strip_prefix(&name)).next();
    number.expect(text).parse().expect(text)
}

#[track_caller]
fn assert_intact(text: &str) {
    for part in [
        "guest: intact",
        "status=0",
        "balloon: the guest's memory: ",
        " MiB available;",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // The guest has used all of it again.
    assert!(
        number(text, "again") > number(text, "before") - 32,
        "{text}"
    );
}

/// 128 MiB of 256 MiB, which the guest has touched.
fn obeys(memory: &str) {
    let folder = tempfile::tempdir().unwrap();
    let answers = "touched() { :; }
         ready() { echo 128M >size; kill -USR2 $vmm; }";
    let options = "size-file=size,free-page-reporting=off";
    let text = balloon(folder.path(), memory, options, TARGET, answers);
    let fell = number(&text, "before") - number(&text, "after");
    assert!((80..160).contains(&fell), "{text}");
    assert!(text.contains("guest: deflated"), "{text}");
    let reached = "balloon: target 128 MiB";
    assert!(text.contains(reached), "{text}");
    assert_intact(&text);
}

#[test]
fn a_guest_gives_memory_up_and_takes_it_back_as_the_host_asks() {
    obeys("256M");
}

#[test]
#[cfg(feature = "full")]
fn a_guest_with_shared_memory_gives_it_up_and_takes_it_back() {
    obeys("256M,shared");
}

/// Most of 256 MiB, which the guest has touched and freed.
fn reports(memory: &str, options: &str, before: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let answers = format!(
        "{before}
         touched() {{ echo >&3; }}
         ready() {{ fell $((before - 96)); echo \"more-huge=$(free_huge)\"; echo >&3; }}"
    );
    let text = balloon(folder.path(), memory, options, FREES, &answers);
    let fell = number(&text, "before") - number(&text, "after");
    assert!(fell >= 96, "{text}");
    assert!(text.contains("guest: total 0"), "{text}");
    assert_intact(&text);
    text
}

#[test]
fn memory_that_the_guest_frees_goes_back_without_a_target() {
    reports("256M", "deflate-on-oom=on", "");
}

#[test]
#[cfg(feature = "full")]
fn shared_memory_that_the_guest_frees_goes_back() {
    reports("256M,shared", "size=0", "");
}

#[test]
#[cfg(feature = "full")]
fn huge_pages_that_the_guest_frees_go_back_to_the_pool() {
    let pool = "echo 140 >/proc/sys/vm/nr_hugepages";
    let text = reports("256M,hugepages=on", "free-page-reporting=on", pool);
    let pages = number(&text, "more-huge") - number(&text, "free-huge");
    assert!(pages >= 48, "{text}");
}

/// Takes memory back when it has no other: a file of more than what is left.
const SHORT: &str = r#"
rm /mnt/big
echo guest: ready
# Linux counts what it may take back as its memory.
while [ $(mem MemAvailable) -gt $((total - 140 * 1024)) ]; do sleep 0.2; done
echo guest: full
dd if=/dev/zero of=/mnt/big bs=1M count=$(($(mem MemAvailable) / 1024 + 40)) 2>/dev/null
echo guest: wrote $(du -m /mnt/big)
rm /mnt/big
[ "$(sha256sum </mnt/data)" = "$sum" ] && echo guest: intact
read -r _
poweroff -f
"#;

/// The host has asked for 128 MiB of 256 MiB.
#[test]
fn a_guest_that_takes_memory_back_by_itself_says_so_once_and_statistics_have_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let answers = "touched() { :; }
         ready() { echo 128M >size; kill -USR2 $vmm; }";
    let options = "size-file=size,deflate-on-oom=on,free-page-reporting=off --stats /tmp/stats";
    let init = format!("{GUEST}{SHORT}");
    let text = with_init(folder.path(), "256M", options, &init, answers);
    for part in ["guest: intact", "status=0"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let by_itself = "the guest has taken memory back by itself: target 128 MiB, actual ";
    assert_eq!(text.matches(by_itself).count(), 1, "{text}");
    let json = text.split("stats=").nth(1).expect(&text);
    let report: Report = serde_json::from_str(json.lines().next().unwrap()).expect(json);
    let balloon = report.devices.iter().find(|it| it.name == "balloon");
    let figures = &balloon.expect(&text).figures;
    let mib = |name: &str| figures[name] >> 20;
    assert_eq!(mib("target_bytes"), 128, "{figures:?}");
    // Linux has reset the device.
    assert_eq!(mib("actual_bytes"), 0, "{figures:?}");
    assert!(mib("given_back_bytes") >= 128, "{figures:?}");
    // By the answer to SIGUSR1.
    assert!((1..256).contains(&mib("available_bytes")), "{figures:?}");
}

#[test]
fn under_qemu_the_guest_gives_up_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let init = "
while [ ! -c /dev/hvc0 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
mem() { while read -r name value _; do [ $name != $1: ] || echo $value; done </proc/meminfo; }
total=$(mem MemTotal)
modprobe virtio_balloon
while [ $(mem MemTotal) -gt $((total - 60 * 1024)) ]; do sleep 0.2; done
echo guest: inflated
while [ $(mem MemTotal) -lt $((total - 1024)) ]; do sleep 0.2; done
echo guest: deflated
poweroff -f
";
    let initramfs = linux::initramfs(folder.path(), "host", init);
    let size = folder.path().join("size");
    fs::write(&size, "64M\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args(["run", "--accel", "qemu", "--memory"]);
    command.args([
        "256M",
        "--balloon",
        &format!("size-file={}", size.display()),
        "--cmdline",
        "console=hvc0 quiet",
        "--kernel",
        host_file("vmlinux").to_str().unwrap(),
        "--initrd",
        initramfs.to_str().unwrap(),
    ]);
    let mut guest = Session::start(&command);
    guest.expect("guest: inflated", STEP);
    fs::write(&size, "0\n").unwrap();
    guest.signal(Signal::SIGUSR2);
    guest.expect("guest: deflated", STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}
