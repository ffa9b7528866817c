//! Debian with systemd as a guest on RISC-V KVM. `lab/fetch` downloads it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::process::Command;

mod support;

use support::lab::cached;
use support::linux::{self, assert_clean, copy_of, initramfs, succeed};
use support::session::Session;
use support::tested::Row;

/// Time limit in seconds from the start to the login prompt.
const BOOT: u64 = 600;
/// Time limit in seconds per step.
const STEP: u64 = 120;

/// systemd would give up on /dev/hvc0 after 90 s. A machine that is emulated twice may need longer
/// to start udev.
const CMDLINE: &str = "console=hvc0 panic=-1 systemd.default_device_timeout_sec=infinity";

/// Starts the system on the disk, since the drivers of disk and file system are modules in Debian's
/// kernel. Its services get as long as they need: 90 s of the guest's time may be little of its
/// CPUs.
const INIT: &str = r#"while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ]; do sleep 0.1; done
mount -o ro /dev/vda /mnt
mount -t tmpfs -o mode=755 none /mnt/run
mkdir -p /mnt/run/systemd/system/service.d
printf '[Service]\nTimeoutSec=infinity\nWatchdogSec=0\n' >/mnt/run/systemd/system/service.d/patient.conf
umount /sys /proc
exec switch_root -c /dev/hvc0 /mnt /sbin/init
"#;

/// Boots Debian to its login prompt, logs in, runs a command and powers off.
fn debian(kernel: &str, options: &[&str], cpus: &str) {
    let name = format!(
        "Debian trixie with systemd, {} kernel",
        linux::version(kernel)
    );
    let _row = Row::begin(&name, "flat Image", options, "auto", cpus);
    let folder = tempfile::tempdir().unwrap();
    let disk = copy_of("debian", folder.path());
    let initramfs = initramfs(folder.path(), kernel, INIT);
    let mut guest = Session::on_kvm(
        options,
        folder.path(),
        &[
            "--memory",
            "512M",
            "--cpus",
            cpus,
            "--cmdline",
            CMDLINE,
            "--kernel",
            cached(kernel, "vmlinux").to_str().unwrap(),
            "--initrd",
            initramfs.to_str().unwrap(),
            "--disk",
            disk.to_str().unwrap(),
        ],
    );
    guest.expect("debian-guest login: ", BOOT);
    guest.send("root\n");
    guest.expect("# ", STEP);
    // The terminal echoes the command, so the output must differ from it.
    guest.send("echo cpus=$(nproc) root=$(findmnt -no SOURCE,OPTIONS / | cut -d, -f1) state=$(systemctl is-system-running --wait)\n");
    guest.expect(&format!("cpus={cpus} root=/dev/vda rw state="), STEP);
    let state = guest.expect_one(&["running", "degraded"], STEP);
    if state == 1 {
        guest.send("systemctl --failed --no-legend --plain; echo end-of-failed\n");
        guest.expect("end-of-failed\r\n", STEP);
    }
    guest.expect("# ", STEP);
    guest.send("echo written by the guest >/root/proof; poweroff\n");
    // The last message of systemd. The kernel's last messages are not printed; the same happens
    // under QEMU and with Linux 7.2.
    guest.expect("Powering off.", STEP);
    let (status, seen) = guest.end(STEP);
    assert_eq!(status, Some(0), "{seen}");
    assert_eq!(state, 0, "{seen}");
    assert_clean(&disk);
    let mut read = Command::new("debugfs");
    let proof = succeed(read.args(["-R", "cat /root/proof"]).arg(&disk));
    assert_eq!(proof, "written by the guest\n");
}

#[test]
fn debian_comes_to_a_login_by_systemd_and_powers_off_cleanly() {
    debian("host", &[], "2");
}

#[test]
fn debian_comes_to_a_login_on_a_newer_kernel_and_a_host_with_aia() {
    debian("next", &["--aia-guests", "2"], "2");
}
