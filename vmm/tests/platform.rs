//! The platform devices under Debian's kernel on RISC-V KVM: serial port, clock, finisher, reboot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

mod support;

use support::kernel::{Elf, finish, image, panic, putchar, reboot, seed};
use support::lab::{self, hartvisor, host_file, run, text};
use support::linux;
use support::session::Session;

/// How long a step may take, in seconds.
const STEP: u64 = 300;
/// By how much two clocks may differ that count seconds.
const SECONDS: u64 = 5;

/// A shell on the serial port, although there is a virtio console as well, which accepts input as
/// soon as it appears. The disk's first byte counts the boots.
const INIT: &str = r#"
modprobe virtio_rng
while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ] || [ ! -c /dev/hwrng ]; do sleep 0.1; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo "guest: date $(date +%s), clock $(cat /sys/class/rtc/rtc0/name)"
echo "guest: rng $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=4096 count=4 | tee /r1 | wc -c)"
dd if=/dev/hwrng of=/r2 bs=4096 count=4
cmp -s /r1 /r2 || echo "guest: rng differs"
grep ttyS0 /proc/interrupts
life=$(dd if=/dev/vda bs=1 count=1 2>/dev/null)
echo "guest: life $life, kernel stamp $(dmesg | grep -c 'Linux version')"
echo "guest: type a line"
read -r line
echo "guest: you typed $line"
if [ "$life" = 1 ]; then
    printf 2 | dd of=/dev/vda bs=1 conv=fsync 2>/dev/null
    reboot -f
fi
poweroff -f
"#;

#[test]
fn debian_lives_twice_on_its_serial_port_and_knows_the_time() {
    lives_twice(&[], "SiFive PLIC");
}

#[test]
#[cfg(feature = "full")]
fn debian_lives_twice_on_its_serial_port_with_an_aia() {
    lives_twice(&["--aia"], "APLIC-MSI");
}

/// Boots Debian's kernel on such a host, where it reboots once. The serial port's interrupt comes
/// from this controller.
fn lives_twice(host: &[&str], controller: &str) {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = linux::initramfs(folder.path(), "host", INIT);
    let disk = folder.path().join("disk");
    let mut file = File::create(&disk).unwrap();
    file.write_all(b"1").unwrap();
    file.set_len(1 << 20).unwrap();
    let cmdline = "earlycon=uart8250,mmio,0x10000000 console=ttyS0 panic=-1";
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut begin = now();
    let mut guest = Session::on_kvm(
        host,
        folder.path(),
        &[
            "--cmdline",
            cmdline,
            "--kernel",
            host_file("vmlinux").to_str().unwrap(),
            "--initrd",
            initramfs.to_str().unwrap(),
            "--disk",
            disk.to_str().unwrap(),
        ],
    );
    for life in 1..=2 {
        guest.expect("guest: date ", STEP);
        let line = guest.line(STEP);
        let date = line.split(',').next().unwrap().parse().unwrap();
        // The emulated host's clock is set from ours. Both clocks are read by the second.
        let [from, to] = [begin.as_secs() - SECONDS, now().as_secs() + SECONDS];
        assert!((from..=to).contains(&date), "{from} to {to}: {line}");
        begin = now();
        guest.expect("guest: type a line", STEP);
        guest.send(&format!("hello {life}\n"));
    }
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
    for part in [
        "earlycon: uart8250 at MMIO 0x0000000010000000",
        "10000000.serial: ttyS0 at MMIO 0x10000000",
        "a 16550A",
        "guest: life 1, kernel stamp 1",
        "guest: you typed hello 1",
        "guest: life 2, kernel stamp 1",
        "guest: you typed hello 2",
        "goldfish_rtc",
        "guest: rng virtio_rng.0 16384",
        "guest: rng differs",
        controller,
    ] {
        assert!(seen.contains(part), "{part:?} is not in {seen}");
    }
}

/// Sleeps (s2idle) until a key arrives at the serial port, and reports whether the alarm could wake
/// it, too.
#[cfg(feature = "full")]
const SLEEPER: &str = r#"exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo enabled >/sys/class/tty/ttyS0/power/wakeup
tree=/proc/device-tree/soc
for node in serial@10000000 rtc@101000; do [ -e $tree/$node/wakeup-source ] && echo "guest: wakeup-source $node"; done
echo "guest: goes to sleep"
echo freeze >/sys/power/state
echo "guest: awake again"
poweroff -f
"#;

/// Linux's driver of the clock (6.12) does not support the alarm as a wake-up source. The driver of
/// the serial port does, once that is enabled.
#[test]
#[cfg(feature = "full")]
fn a_key_wakes_a_guest_that_sleeps() {
    for host in [&[][..], &["--aia"]] {
        let folder = tempfile::tempdir().unwrap();
        let initramfs = linux::initramfs(folder.path(), "host", SLEEPER);
        let mut guest = Session::on_kvm(
            host,
            folder.path(),
            &[
                "--memory",
                "256M",
                "--cmdline",
                "console=ttyS0 no_console_suspend panic=-1",
                "--kernel",
                host_file("vmlinux").to_str().unwrap(),
                "--initrd",
                initramfs.to_str().unwrap(),
            ],
        );
        guest.expect("guest: wakeup-source serial@10000000", 600);
        guest.expect("guest: wakeup-source rtc@101000", 120);
        guest.expect("guest: goes to sleep", 120);
        guest.expect("remaining freezable tasks completed", 120);
        // Until the kernel suspends interrupts, a key is just input and does not wake it. So send
        // several.
        let mut keys = 0;
        while !guest.comes("guest: awake again") {
            guest.send("x");
            keys += 1;
            assert!(keys < 20_000, "no key wakes it");
        }
        let (status, seen) = guest.end(120);
        assert_eq!(status, Some(0), "{seen}");
    }
}

/// Runs code on KVM with these options.
fn runs(code: &[u8], options: &[&str]) -> (Option<i32>, String) {
    runs_on(&[], code, options)
}

/// As [`runs`], on a host with these options.
fn runs_on(host: &[&str], code: &[u8], options: &[&str]) -> (Option<i32>, String) {
    boots(host, &Elf::new(0x8020_0000, code).bytes(), options)
}

/// Boots this kernel file on KVM, on a host with these options.
fn boots(host: &[&str], file: &[u8], options: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, file).unwrap();
    let mut command: Command = lab::lab(host, &[folder.path()]);
    command.arg(hartvisor()).args(["run", "--accel", "kvm"]);
    command.args(options).arg("--kernel").arg(&kernel);
    let output = run(&mut command, b"");
    (output.status.code(), text(&output))
}

#[test]
fn a_store_to_the_finisher_ends_the_run() {
    let (status, text) = runs(&finish(0x5555), &[]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = runs(&finish(0x0007_3333), &[]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("the guest reported failure 7"), "{text}");
}

#[test]
fn a_flat_image_that_stays_silent_ends_with_a_hint() {
    let silent = |code: &[u8]| {
        let mut file = image(0x20_0000, 1 << 20, 64);
        // j . + 64, over the header.
        file[..4].copy_from_slice(&0x0400_006f_u32.to_le_bytes());
        file.extend(code);
        boots(&[], &file, &[])
    };
    let (status, text) = silent(&finish(0x5555));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("the guest used no console"), "{text}");
    let (status, text) = silent(&[putchar(b'!'), finish(0x5555)].concat());
    assert_eq!(status, Some(0), "{text}");
    assert!(!text.contains("the guest used no console"), "{text}");
}

#[test]
fn a_panic_of_the_guests_kernel_has_a_status_of_its_own() {
    let (status, text) = runs(&panic(1), &[]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("the guest's kernel panicked"), "{text}");
    // The crash kernel continues. Here the code continues to its end, which reports that.
    let crash_kernel = [panic(2), finish(0x5555)].concat();
    let (status, text) = runs(&crash_kernel, &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("starts its crash kernel"), "{text}");
}

/// KVM exits for the `seed` CSR if the host has Zkr.
#[test]
fn the_entropy_source_gives_entropy() {
    let (status, text) = runs_on(&["--isa", "zkr=on"], &seed(), &[]);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn no_reboot_makes_a_reset_the_end() {
    for code in [reboot(), finish(0x7777)] {
        for (option, expected) in [("--no-reboot", 0), ("--no-reboot=42", 42)] {
            let (status, text) = runs(&code, &[option]);
            assert_eq!(status, Some(expected), "{text}");
        }
    }
}

#[test]
fn a_guest_that_resets_for_ever_can_still_be_ended() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Elf::new(0x8020_0000, &reboot()).bytes()).unwrap();
    let script = format!(
        "HARTVISOR_LOG=info {} run --accel kvm --kernel {} 2>/tmp/log & vmm=$!
         while [ $(grep -c reboots /tmp/log) -lt 20 ]; do sleep 0.1; done
         ls /proc/$vmm/fd | wc -l; while [ $(grep -c reboots /tmp/log) -lt 60 ]; do sleep 0.1; done
         kill -TERM $vmm; wait $vmm; echo status=$?",
        hartvisor().display(),
        kernel.display()
    );
    let mut command = lab::lab(&[], &[folder.path()]);
    let output = run(command.args(["sh", "-c", &script]), b"");
    let text = text(&output);
    assert!(text.contains("status=143"), "{text}");
    // A reboot leaks nothing.
    let open: u32 = text.lines().next().unwrap().trim().parse().unwrap();
    assert!(open < 60, "{open} descriptors after 20 reboots");
}
