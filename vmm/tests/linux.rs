//! Debian's kernel as a guest on RISC-V KVM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::process::Command;

mod support;

use support::lab::{self, cached, hartvisor};
use support::linux::{self, AT_CONSOLE, assert_clean, ext4, initramfs, succeed};
use support::session::Session;
use support::tested::Row;

/// How long a step may take, in seconds.
const STEP: u64 = 300;

/// The guest's /init: a console on hvc0, 64 MiB in a file system on /dev/vda, a line of input.
const INIT: &str = r#"echo "guest: cpus $(grep -c ^processor /proc/cpuinfo), disk $(cat /sys/block/vda/serial)"
mount /dev/vda /mnt || echo "guest: no mount"
dd if=/dev/urandom of=/mnt/data bs=1M count=64 2>/dev/null && sync
echo 3 >/proc/sys/vm/drop_caches
echo "guest: sha256 $(sha256sum </mnt/data)"
echo "guest: type a line"
read -r line
echo "guest: you typed $line"
umount /mnt && echo "guest: unmounted"
poweroff -f
"#;

/// Boots the downloaded kernel of this name with these vCPUs on a host with these options, and
/// checks its disk afterwards.
fn boots(kernel: &str, options: &[&str], irqchip: &str, cpus: &str) {
    let name = format!("Linux {} and busybox", linux::version(kernel));
    let _row = Row::begin(&name, "flat Image", options, irqchip, cpus);
    let folder = tempfile::tempdir().unwrap();
    let initramfs = initramfs(folder.path(), kernel, &format!("{AT_CONSOLE}{INIT}"));
    let disk = ext4(folder.path());
    let mut guest = Session::on_kvm(
        options,
        folder.path(),
        &[
            "--memory",
            "512M",
            "--no-reboot",
            "--cpus",
            cpus,
            "--irqchip",
            irqchip,
            "--cmdline",
            "console=hvc0 quiet panic=-1",
            "--kernel",
            cached(kernel, "vmlinux").to_str().unwrap(),
            "--initrd",
            initramfs.to_str().unwrap(),
            "--disk",
            &format!("{},serial=linux", disk.display()),
        ],
    );
    guest.expect("guest: type a line", STEP);
    guest.send("hello linux\n");
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
    let expected = [
        format!("guest: cpus {cpus}, disk linux"),
        "guest: you typed hello linux".to_owned(),
        "guest: unmounted".to_owned(),
    ];
    for line in expected {
        assert!(seen.contains(&line), "{line:?} is not in {seen}");
    }

    let said = seen.split("guest: sha256 ").nth(1).expect(&seen);
    let copy = folder.path().join("data");
    assert_clean(&disk);
    let dump = format!("dump /data {}", copy.display());
    succeed(Command::new("debugfs").args(["-R", &dump]).arg(&disk));
    assert_eq!(fs::metadata(&copy).unwrap().len(), 64 << 20);
    let sum = succeed(Command::new("sha256sum").arg(&copy));
    assert_eq!(sum.split(' ').next(), said.split(' ').next());
}

/// As many disks as there are slots besides those of the console and the random number generator.
/// The guest names them in the order of its device tree, and waits for an interrupt of each.
fn sees_every_disk(options: &[&str], irqchip: &str) {
    let name = format!("Linux {} and busybox, 26 disks", linux::version("host"));
    let _row = Row::begin(&name, "flat Image", options, irqchip, "1");
    let folder = tempfile::tempdir().unwrap();
    let script = r#"for disk in /sys/block/vd*; do
echo "guest: ${disk##*/} $(cat $disk/serial) $(head -c 7 /dev/${disk##*/})"
done
poweroff -f
"#;
    let initramfs = initramfs(folder.path(), "host", &format!("{AT_CONSOLE}{script}"));
    let mut command = lab::lab(options, &[folder.path()]);
    command
        .arg(hartvisor())
        .args(["run", "--accel", "kvm", "--memory", "512M", "--no-reboot"])
        .args(["--irqchip", irqchip])
        .args(["--cmdline", "console=hvc0 quiet panic=-1"])
        .arg("--kernel")
        .arg(cached("host", "vmlinux"))
        .arg("--initrd")
        .arg(&initramfs);
    let mut expected = Vec::new();
    for (number, letter) in ('a'..='z').enumerate() {
        let disk = folder.path().join(format!("disk{number}"));
        fs::write(&disk, format!("{number:07}").repeat(4096)).unwrap();
        expected.push(format!("guest: vd{letter} s{number} {number:07}"));
        let option = format!("--disk={},serial=s{number}", disk.display());
        command.arg(option);
    }
    let output = lab::run(&mut command, b"");
    let text = lab::text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let seen = text.lines().map(str::trim_end);
    let seen: Vec<_> = seen.filter(|line| line.starts_with("guest: vd")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn debian_sees_twenty_six_disks_behind_a_plic() {
    sees_every_disk(&[], "plic");
}

#[test]
#[cfg(feature = "full")]
fn debian_sees_twenty_six_disks_behind_an_aia() {
    sees_every_disk(&["--aia"], "aia");
}

#[test]
fn debian_boots_writes_its_disk_and_answers() {
    boots("host", &[], "auto", "1");
}

#[test]
fn debian_boots_on_two_vcpus_of_a_host_with_aia() {
    boots("host", &["--aia-guests", "2"], "auto", "2");
}

#[cfg(feature = "full")]
#[test]
fn the_kernel_of_debians_next_release_boots() {
    boots("next", &[], "auto", "1");
}

#[cfg(feature = "full")]
#[test]
fn the_kernel_of_debians_next_release_boots_on_four_vcpus_of_a_host_with_aia() {
    boots("next", &["--aia-guests", "2"], "auto", "4");
}

#[cfg(feature = "full")]
#[test]
fn debian_boots_with_the_aia_emulated_by_kvm() {
    boots("host", &["--aia"], "aia", "2");
}

#[cfg(feature = "full")]
#[test]
fn debian_boots_with_our_plic_though_the_host_has_an_aia() {
    boots("host", &["--aia-guests", "2"], "plic", "4");
}
