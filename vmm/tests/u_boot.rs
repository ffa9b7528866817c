//! U-Boot for S-mode, which others wrote, as a guest on RISC-V KVM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::process::Command;

#[allow(dead_code, unreachable_pub)]
#[path = "support/lab.rs"]
mod lab;
#[allow(dead_code, unreachable_pub)]
#[path = "support/linux.rs"]
mod linux;
#[allow(dead_code, unreachable_pub)]
#[path = "support/session.rs"]
mod session;
#[allow(dead_code, unreachable_pub)]
#[path = "support/tested.rs"]
mod tested;

use lab::cached;
use linux::succeed;
use session::Session;
use tested::Row;

/// How long a step may take, in seconds.
const STEP: u64 = 120;

/// Boots U-Boot to its prompt and has it read a file from the virtio disk.
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
    // U-Boot insists on a serial port.
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
    // Before its own search for systems to boot ends at the same prompt.
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
    // A command that runs looks for Ctrl-c and throws away what else is typed: wait for the prompt.
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
