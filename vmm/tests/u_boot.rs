//! U-Boot for S-mode as a guest on RISC-V KVM, and what it boots from a disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
#[cfg(feature = "full")]
use std::path::{Path, PathBuf};
use std::process::Command;

mod support;

use support::efi;
use support::lab::{self, cached};
#[cfg(feature = "full")]
use support::linux::initramfs;
use support::linux::succeed;
use support::session::Session;
use support::tested::Row;

/// Time limit in seconds per step.
const STEP: u64 = 120;

/// Boots U-Boot to its prompt and makes it read a file from the virtio disk.
fn u_boot(file: &str, format: &str, options: &[&str]) {
    let _row = Row::begin("U-Boot 2025.01, S-mode", format, options, "auto", "1");
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("greeting"), "hello from a file\n").unwrap();
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&root)
            .arg(&disk),
    );
    let kernel = format!(
        "{}{}",
        cached("u-boot", file).display(),
        if file.ends_with(".bin") {
            ",format=raw"
        } else {
            ""
        }
    );
    // U-Boot requires a serial port.
    let mut guest = Session::on_kvm(
        options,
        folder.path(),
        &[
            "--memory",
            "256M",
            "--serial",
            "stdio",
            "--console",
            "null",
            "--kernel",
            &kernel,
            "--disk",
            disk.to_str().unwrap(),
        ],
    );
    // Before its autoboot attempts end at the same prompt.
    guest.expect("Hit any key to stop autoboot", STEP);
    guest.send("\n");
    guest.expect("=> ", STEP);
    guest.send("virtio scan; virtio info; ls virtio 0\n");
    guest.expect("VirtIO Block Device", STEP);
    guest.expect("Capacity: 16.0 MB", STEP);
    guest.expect("greeting", STEP);
    guest.expect("=> ", STEP);
    guest.send("load virtio 0 ${kernel_addr_r} greeting; md.b ${kernel_addr_r} 5\n");
    guest.expect("18 bytes read", STEP);
    guest.expect("68 65 6c 6c 6f", STEP);
    // A running command polls for Ctrl-c and discards other input: wait for the prompt.
    guest.expect("=> ", STEP);
    guest.send("poweroff\n");
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
    succeed(Command::new("e2fsck").arg("-fn").arg(&disk));
}

#[test]
fn u_boot_comes_to_its_prompt_and_reads_the_disk() {
    u_boot("u-boot", "ELF", &[]);
}

#[test]
fn u_boot_as_a_raw_binary_does_the_same_on_a_host_with_aia() {
    u_boot("u-boot.bin", "raw", &["--aia-guests", "2"]);
}

/// Without --kernel the firmware is found, here in the directory of the program, and boots the
/// disk.
#[test]
fn a_disk_alone_is_booted_by_firmware() {
    let folder = tempfile::tempdir().unwrap();
    let disk = efi::disk(folder.path());
    let program = folder.path().join("hartvisor");
    fs::copy(lab::hartvisor(), &program).unwrap();
    fs::copy(
        cached("u-boot", "u-boot.bin"),
        folder.path().join("u-boot.bin"),
    )
    .unwrap();
    let mut command = lab::lab(&["--timeout", "3600"], &[folder.path()]);
    command.arg(&program).args(["run", "--accel", "kvm"]);
    let mut guest = Session::start(command.arg("--disk").arg(&disk));
    guest.expect(efi::TEXT, 5 * STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}

/// Under QEMU, too. What is typed reaches the firmware, though nothing says which console it uses.
#[test]
fn firmware_under_qemu_takes_keys_and_boots_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = efi::disk(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args(["run", "--accel", "qemu", "--firmware"]);
    command.arg(cached("u-boot", "u-boot.bin"));
    let mut guest = Session::start(command.arg("--disk").arg(&disk));
    guest.expect("Hit any key to stop autoboot", STEP);
    guest.send("\n");
    guest.expect("=> ", STEP);
    guest.send("boot\n");
    guest.expect(efi::TEXT, STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}

/// The command line that U-Boot passes to Debian's kernel.
#[cfg(feature = "full")]
const CMDLINE: &str = "console=ttyS0 panic=-1";

/// Reports that it runs, and its command line.
#[cfg(feature = "full")]
const INIT: &str = r#"exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo "guest: alive, $(cat /proc/cmdline)"
poweroff -f
"#;

/// Creates a disk with Debian's kernel, an initramfs and a boot menu for U-Boot, on an ext4 file
/// system.
#[cfg(feature = "full")]
fn bootable(folder: &Path) -> PathBuf {
    let root = folder.join("files");
    fs::create_dir_all(root.join("extlinux")).unwrap();
    fs::copy(cached("host", "vmlinux"), root.join("vmlinux")).unwrap();
    fs::copy(initramfs(folder, "host", INIT), root.join("initrd")).unwrap();
    let menu = format!(
        "default linux\nlabel linux\n  kernel /vmlinux\n  initrd /initrd\n  append {CMDLINE}\n"
    );
    fs::write(root.join("extlinux/extlinux.conf"), menu).unwrap();
    let disk = folder.join("disk");
    File::create(&disk).unwrap().set_len(128 << 20).unwrap();
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&root)
            .arg(&disk),
    );
    disk
}

/// Starts U-Boot for S-mode to its prompt, with a disk that Debian's kernel can be booted from.
#[cfg(feature = "full")]
fn at_prompt(folder: &Path, options: &[&str]) -> Session {
    let disk = bootable(folder);
    let kernel = format!("{},format=raw", cached("u-boot", "u-boot.bin").display());
    let mut arguments = vec!["--memory", "512M", "--console", "null", "--no-reboot=42"];
    arguments.extend(["--kernel", &kernel, "--disk", disk.to_str().unwrap()]);
    arguments.extend(options);
    let mut guest = Session::on_kvm(&[], folder, &arguments);
    guest.expect("Hit any key to stop autoboot", STEP);
    for command in ["", "virtio scan"] {
        guest.send(&format!("{command}\n"));
        guest.expect("=> ", STEP);
    }
    guest
}

/// U-Boot adds the command line and the initramfs to its device tree, in place, and passes it on.
#[cfg(feature = "full")]
fn boots_debian_by_extlinux(folder: &Path, options: &[&str]) {
    let mut guest = at_prompt(folder, options);
    guest.send("sysboot virtio 0:0 any ${scriptaddr} /extlinux/extlinux.conf\n");
    guest.expect(&format!("guest: alive, {CMDLINE}"), 5 * STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}

#[test]
#[cfg(feature = "full")]
fn u_boot_boots_debian_by_extlinux() {
    let folder = tempfile::tempdir().unwrap();
    boots_debian_by_extlinux(folder.path(), &[]);
}

/// A user-supplied device tree gets spare bytes, too.
#[test]
#[cfg(feature = "full")]
fn u_boot_boots_debian_by_extlinux_with_a_given_device_tree() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, disk) = (folder.path().join("dtb"), folder.path().join("disk"));
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let kernel = format!("{},format=raw", cached("u-boot", "u-boot.bin").display());
    let mut dump = lab::lab(&["--timeout", "300"], &[folder.path()]);
    dump.arg(lab::hartvisor());
    dump.args(["run", "--accel", "kvm", "--memory", "512M", "--kernel"]);
    dump.args([kernel.as_str(), "--disk"]).arg(&disk);
    succeed(dump.arg("--dump-dtb").arg(&tree));
    let written = fs::read(&tree).unwrap();
    // dtc writes it without spare bytes.
    let packed = folder.path().join("packed.dtb");
    fs::write(&packed, without_slack(&written)).unwrap();
    boots_debian_by_extlinux(folder.path(), &["--dtb", packed.to_str().unwrap()]);
}

/// A tree that ends with its strings block (Devicetree Specification v0.4 § 5.2).
#[cfg(feature = "full")]
fn without_slack(tree: &[u8]) -> Vec<u8> {
    let field = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
    let end = field(12) + field(32);
    let mut packed = tree[..end as usize].to_vec();
    packed[4..8].copy_from_slice(&end.to_be_bytes());
    packed
}

/// The kernel's EFI stub starts without an initramfs. The kernel then panics, and resets as
/// requested.
#[test]
#[cfg(feature = "full")]
fn u_boot_boots_debian_by_efi() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = at_prompt(folder.path(), &[]);
    for command in [
        "load virtio 0 ${kernel_addr_r} vmlinux",
        &format!("setenv bootargs {CMDLINE}"),
    ] {
        guest.send(&format!("{command}\n"));
        guest.expect("=> ", STEP);
    }
    guest.send("bootefi ${kernel_addr_r} ${fdtcontroladdr}\n");
    guest.expect("efi: EFI v2", 5 * STEP);
    guest.expect("Kernel panic - not syncing: VFS", 5 * STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(42), "{seen}");
}
