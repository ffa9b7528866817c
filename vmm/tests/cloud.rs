//! A disk like Debian's cloud images, booted without `--kernel`: U-Boot, GRUB from the EFI system
//! partition, Debian's kernel and systemd. `lab/fetch` makes it. Under QEMU, cloud-init reads the
//! disk of `--cloud-init`. On KVM in the lab it is disabled: all code there is emulated twice, and
//! cloud-init's Python takes minutes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

mod support;

use nix::sys::signal::Signal;
use support::lab::{self, cached};
use support::linux::{assert_clean, copy_of, succeed};
use support::session::Session;
use support::tested::Row;

/// Time limit in seconds from GRUB to the login prompt, and per step.
const BOOT: u64 = 1800;
const STEP: u64 = 600;

/// The partitions, in bytes: the EFI system partition begins at 1 MiB and ends where the root
/// begins.
const ESP: u64 = 1 << 20;
const ROOT: u64 = 64 << 20;

const PASSWORD: &str = "set-by-cloud-init";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHRlc3QgdGVzdCB0ZXN0IHRlc3QgdGVzdCB0ZXN0IDE= test";

/// A host name, a password of root, and a command that cloud-init executes once per instance.
const USER_DATA: &str = "#cloud-config
hostname: cloud-guest
locale: false
chpasswd: {expire: false, users: [{name: root, password: set-by-cloud-init, type: text}]}
runcmd: [echo configured >>/root/configured]
";

/// Waits until systemd-logind reads the power key: udev has then loaded the drivers and tagged the
/// device.
const KEY_IS_READ: &str =
    "until ls -l /proc/$(pidof systemd-logind)/fd | grep -q /dev/input/event; do sleep 1; done";

/// Where the guest runs.
enum Machine<'a> {
    /// KVM in the lab, with these options of `lab/run`. cloud-init is disabled.
    Kvm(&'a [&'a str]),
    /// QEMU on this machine, with cloud-init.
    Qemu,
}

impl Machine<'_> {
    /// Starts hartvisor with these arguments. The lab has this directory.
    fn start(&self, folder: &Path, arguments: &[&str]) -> Session {
        match self {
            Machine::Kvm(options) => {
                let press = press(folder);
                let _ = fs::remove_file(&press);
                // $$ is the process that becomes hartvisor.
                let script = format!(
                    "(until [ -e {} ]; do sleep 1; done; kill -TERM $$) </dev/null >/dev/null 2>&1 & exec \"$@\"",
                    press.display()
                );
                let mut command = lab::lab(&[&["--timeout", "3600"], *options].concat(), &[folder]);
                command.args(["sh", "-c", &script, "sh"]);
                command.arg(lab::hartvisor());
                Session::start(command.args(["run", "--accel", "kvm"]).args(arguments))
            }
            Machine::Qemu => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
                Session::start(command.args(["run", "--accel", "qemu"]).args(arguments))
            }
        }
    }

    /// Sends SIGTERM to hartvisor.
    fn terminate(&self, guest: &Session, folder: &Path) {
        match self {
            Machine::Kvm(_) => fs::write(press(folder), "").unwrap(),
            Machine::Qemu => guest.signal(Signal::SIGTERM),
        }
    }
}

/// The file that makes the shell in the lab send SIGTERM.
fn press(folder: &Path) -> PathBuf {
    folder.join("press")
}

/// Returns the name of the root file system for programs of e2fsprogs.
fn root_of(disk: &Path) -> String {
    format!("{}?offset={ROOT}", disk.display())
}

/// Creates the file that disables cloud-init. Its content does not matter.
fn disable_cloud_init(folder: &Path, disk: &Path) {
    let script = folder.join("script");
    let name = "cloud-init.disabled";
    let commands = format!("cd /etc/cloud\nwrite {} {name}\n", script.display());
    fs::write(&script, commands).unwrap();
    let mut edit = Command::new("debugfs");
    succeed(edit.arg("-w").arg("-f").arg(&script).arg(root_of(disk)));
}

/// Logs in at the console. With cloud-init root has the password of the user data, else none.
fn log_in(guest: &mut Session, cloud_init: bool) {
    if cloud_init {
        // Its last message may come before or after a prompt. Another prompt follows an empty name.
        guest.expect("finished at", BOOT);
        guest.expect("Datasource DataSourceNoCloud [seed=/dev/vdb]", STEP);
        guest.send("\n");
        guest.expect("cloud-guest login: ", STEP);
    } else {
        guest.expect("localhost login: ", BOOT);
    }
    guest.send("root\n");
    if cloud_init {
        guest.expect("Password: ", STEP);
        guest.send(&format!("{PASSWORD}\n"));
    }
    guest.expect("# ", STEP);
}

/// Boots a copy of the disk twice and logs in. The power key ends the first boot, `poweroff` the
/// second.
fn boots_twice(machine: &Machine) {
    let folder = tempfile::tempdir().unwrap();
    let disk = copy_of("cloud", folder.path());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (user_data, key) = (file("user-data", USER_DATA), file("key.pub", KEY));
    let cloud_init = format!("user-data={user_data},ssh-key={key}");
    let firmware = cached("u-boot", "u-boot.bin");
    let mut arguments = vec!["--memory", "1G", "--cpus", "2"];
    arguments.extend(["--shutdown-timeout", "100000"]);
    arguments.extend(["--disk", disk.to_str().unwrap()]);
    arguments.extend(["--firmware", firmware.to_str().unwrap()]);
    let with_cloud_init = matches!(machine, Machine::Qemu);
    if with_cloud_init {
        arguments.extend(["--cloud-init", &cloud_init]);
    } else {
        disable_cloud_init(folder.path(), &disk);
    }
    for (boot, proof) in [("first", ""), ("second", "first")] {
        let mut guest = machine.start(folder.path(), &arguments);
        guest.expect("Booting `Debian'", STEP);
        log_in(&mut guest, with_cloud_init);
        // The terminal echoes the command, so the output must differ from it.
        guest.send("echo state=$(systemctl is-system-running --wait)\n");
        if guest.expect_one(&["state=running\r\n", "state=degraded\r\n"], BOOT) == 1 {
            guest.send("systemctl --failed --no-legend --plain; poweroff\n");
            panic!("services failed: {}", guest.end(STEP).1);
        }
        guest.expect("# ", STEP);
        let mut answers = |command: &str, answer: &str| {
            guest.send(&format!("{command}\n"));
            guest.expect(&format!("{answer}\r\n"), STEP);
            guest.expect("# ", STEP);
        };
        answers(
            "echo efi=$(ls -d /sys/firmware/efi) root=$(findmnt -no SOURCE /) proof=$(cat proof)",
            &format!("efi=/sys/firmware/efi root=/dev/vda1 proof={proof}"),
        );
        answers(
            &format!(
                "{KEY_IS_READ}; echo drivers=$(grep -c -e ^virtio_input -e ^evdev /proc/modules)"
            ),
            "drivers=2",
        );
        if with_cloud_init {
            answers("echo runcmd=$(cat configured)", "runcmd=configured");
            answers("tail -n 1 ~debian/.ssh/authorized_keys", KEY);
        }
        answers(&format!("echo {boot} >proof; echo written=$?"), "written=0");
        if boot == "first" {
            machine.terminate(&guest, folder.path());
            guest.expect("asked the guest to power off", STEP);
        } else {
            guest.send("poweroff\n");
        }
        let (status, seen) = guest.end(STEP);
        assert_eq!(status, Some(0), "{boot} boot: {seen}");
        assert!(seen.contains("reboot: Power down"), "{boot} boot: {seen}");
        assert_clean(Path::new(&root_of(&disk)));
        fsck_esp(folder.path(), &disk);
    }
}

/// Asserts that the EFI system partition is consistent and was unmounted cleanly.
fn fsck_esp(folder: &Path, disk: &Path) {
    let esp = folder.join("esp");
    let mut file = File::open(disk).unwrap();
    file.seek(SeekFrom::Start(ESP)).unwrap();
    let mut partition = file.take(ROOT - ESP);
    std::io::copy(&mut partition, &mut File::create(&esp).unwrap()).unwrap();
    // U-Boot keeps its EFI variables there, in ubootefi.var, and does not count the clusters.
    let mut check = Command::new("fsck.vfat");
    check.env("PATH", "/usr/sbin:/sbin").arg("-n").arg(&esp);
    let output = check.output().unwrap();
    let text = lab::text(&output);
    let known = [
        "fsck.fat ",
        "Free cluster summary wrong",
        "  Auto-correcting.",
        "Leaving filesystem unchanged.",
        esp.to_str().unwrap(),
    ];
    let other = text
        .lines()
        .find(|line| !line.is_empty() && !known.iter().any(|known| line.starts_with(known)));
    assert_eq!(other, None, "{text}");
}

/// `host` are the options of `lab/run`.
fn on_kvm(host: &[&str]) {
    let name = "Debian trixie as in a cloud: U-Boot, GRUB, systemd";
    let _row = Row::begin(name, "disk", host, "auto", "2");
    boots_twice(&Machine::Kvm(host));
}

#[test]
fn a_cloud_image_comes_to_a_login_twice_and_obeys_the_power_key() {
    on_kvm(&[]);
}

#[test]
fn a_cloud_image_comes_to_a_login_twice_and_obeys_the_power_key_on_a_host_with_aia() {
    on_kvm(&["--aia-guests", "2"]);
}

#[test]
fn a_cloud_image_is_configured_by_cloud_init_under_qemu() {
    boots_twice(&Machine::Qemu);
}
