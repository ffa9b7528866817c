//! The disk of `--cloud-init`, read by U-Boot's FAT driver: on RISC-V KVM, and under QEMU with our
//! devices and with its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

mod support;

use support::lab::cached;
use support::session::Session;

/// Time limit in seconds per step.
const STEP: u64 = 120;

const USER_DATA: &str = "#cloud-config\nruncmd: [poweroff]\n";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 test";

/// The options of a guest with a disk of 1 MiB and cloud-init's.
fn options(folder: &Path) -> Vec<String> {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::write(file("user-data"), USER_DATA).unwrap();
    fs::write(file("key.pub"), KEY).unwrap();
    File::create(file("disk"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let kernel = cached("u-boot", "u-boot").to_str().unwrap().to_owned();
    let files = format!(
        "user-data={},ssh-key={}",
        file("user-data"),
        file("key.pub")
    );
    let (kernel, disk, files) = (
        format!("--kernel={kernel}"),
        format!("--disk={}", file("disk")),
        format!("--cloud-init={files}"),
    );
    vec!["--console=null".into(), kernel, disk, files]
}

/// Lets U-Boot list and print the files on the last disk.
fn read_by_u_boot(mut guest: Session) {
    let length = USER_DATA.len();
    let (listed, read) = (
        format!("{length}   user-data"),
        format!("{length} bytes read"),
    );
    let mut command = |line: &str, answers: &[&str]| {
        // A running command discards input.
        guest.expect("=> ", STEP);
        guest.send(&format!("{line}\n"));
        for answer in answers {
            guest.expect(answer, STEP);
        }
    };
    // At "Hit any key to stop autoboot".
    command("virtio scan", &[]);
    command("fatinfo virtio 1", &["FAT12", "\"CIDATA     \""]);
    command("ls virtio 1", &[&listed, "meta-data", "2 file(s)"]);
    command("load virtio 1 ${loadaddr} user-data", &[&read]);
    command("md.b ${loadaddr} 20", &["23 63 6c 6f 75 64", "cmd: "]);
    command(
        "mw.b ${loadaddr} 0 200; load virtio 1 ${loadaddr} meta-data",
        &[" bytes read"],
    );
    command("md.b ${loadaddr} a0", &["instance-id: har", "ssh-ed25519"]);
    // It is read-only.
    command("virtio dev 1; virtio write ${loadaddr} 0 1", &["ERROR"]);
    command("poweroff", &[]);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
}

/// Starts the guest, and stops its automatic boot.
fn at_prompt(mut guest: Session) -> Session {
    guest.expect("Hit any key to stop autoboot", STEP);
    guest.send("\n");
    guest
}

#[test]
fn u_boot_on_kvm_reads_the_files_of_cloud_inits_disk() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    read_by_u_boot(at_prompt(Session::on_kvm(&[], folder.path(), &options)));
}

fn under_qemu(devices: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args(["run", "--accel", "qemu", "--devices", devices]);
    read_by_u_boot(at_prompt(Session::start(
        command.args(options(folder.path())),
    )));
}

#[test]
fn u_boot_under_qemu_reads_the_files_of_cloud_inits_disk() {
    under_qemu("ours");
}

#[test]
fn u_boot_under_qemu_reads_them_by_qemus_own_disk() {
    under_qemu("qemu");
}
