//! Debian's kernel, which nobody here wrote, as a guest on RISC-V KVM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[allow(dead_code, unreachable_pub)]
#[path = "support/lab.rs"]
mod lab;

use lab::{hartvisor, host_file};

/// The guest's /init: a console on hvc0, a file system on /dev/vda with 64 MiB in it, a typed line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
modprobe virtio_mmio; modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4
while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
echo "guest: cpus $(grep -c ^processor /proc/cpuinfo), disk $(cat /sys/block/vda/serial)"
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

/// A root file system of busybox, the modules and /init, as the kernel takes it.
fn initramfs(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    let release = fs::read_to_string(host_file("release")).unwrap();
    let modules = root.join("lib/modules").join(release.trim());
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(&modules).unwrap();
    fs::copy(host_file("busybox"), root.join("bin/busybox")).unwrap();
    for module in fs::read_dir(host_file("modules")).unwrap() {
        let module = module.unwrap();
        fs::copy(module.path(), modules.join(module.file_name())).unwrap();
    }
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = folder.join("initramfs.cpio");
    let pack = "find . -mindepth 1 | cpio --create --format=newc --owner=0:0 --quiet";
    let mut command = Command::new("sh");
    command
        .args(["-c", pack])
        .current_dir(&root)
        .stdout(File::create(&archive).unwrap());
    assert!(command.status().unwrap().success());
    archive
}

fn ext4(folder: &Path) -> PathBuf {
    let disk = folder.join("disk");
    File::create(&disk).unwrap().set_len(128 << 20).unwrap();
    succeed(Command::new("mkfs.ext4").arg("-q").arg(&disk));
    disk
}

/// Its standard output.
fn succeed(command: &mut Command) -> String {
    // mkfs and its kind live where a user's PATH does not lead.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Boots Linux with these vCPUs on a host with these options, and checks its disk afterwards.
fn boots(options: &[&str], cpus: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (initramfs, disk) = (initramfs(folder.path()), ext4(folder.path()));
    let mut child = lab::lab(options, &[folder.path()])
        .arg(hartvisor())
        .args(["run", "--accel", "kvm", "--memory", "512M", "--cpus", cpus])
        .args(["--cmdline", "console=hvc0 quiet panic=-1"])
        .arg("--kernel")
        .arg(host_file("vmlinux"))
        .arg("--initrd")
        .arg(&initramfs)
        .arg("--disk")
        .arg(format!("{},serial=linux", disk.display()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut seen = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        seen += &format!("{}\n", line.trim_end());
        if line.contains("type a line") {
            keyboard.write_all(b"hello linux\n").unwrap();
        }
    }
    let status = child.wait().unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut seen)
        .unwrap();
    assert_eq!(status.code(), Some(0), "{seen}");
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
    succeed(Command::new("e2fsck").arg("-fn").arg(&disk));
    let dump = format!("dump /data {}", copy.display());
    succeed(Command::new("debugfs").args(["-R", &dump]).arg(&disk));
    assert_eq!(fs::metadata(&copy).unwrap().len(), 64 << 20);
    let sum = succeed(Command::new("sha256sum").arg(&copy));
    assert_eq!(sum.split(' ').next(), said.split(' ').next());
}

#[test]
fn debian_boots_writes_its_disk_and_answers() {
    boots(&[], "1");
}

#[test]
fn debian_boots_on_two_vcpus_of_a_host_with_aia() {
    boots(&["--aia-guests", "2"], "2");
}
