//! Guests under QEMU with Hartvisor's disk over vhost-user: the bare-metal guest and Linux. Back
//! ends and QEMUs that are killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;

use support::lab::{cached, guest, run, text};
use support::linux::{AT_CONSOLE, assert_clean, ext4, initramfs, succeed};
use support::program::{self, LIMIT, undisturbed};
use support::session::Session;

const HARTVISOR: &str = env!("CARGO_BIN_EXE_hartvisor");

/// Runs the guest's tests on a disk of 1 MiB.
fn tested(devices: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let content: Vec<u8> = (0..1_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    fs::write(&path, &content).unwrap();
    let mut command = Command::new(HARTVISOR);
    command
        .args(["run", "--accel", "qemu", "--cmdline", "test", "--kernel"])
        .arg(guest())
        .args(["--devices", devices, "--disk"])
        .arg(format!("{},serial=ours", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = run(&mut command, b"a typed line\n");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let bad = |line: &&str| line.starts_with("not ok") && !line.contains("# TODO");
    assert_eq!(text.lines().find(bad), None, "{text}");
    assert!(text.contains("disk \"ours\", 2048 sectors"), "{text}");
    assert!(fs::read(&path).unwrap() == content, "restored by the guest");
}

#[test]
fn the_bare_metal_guest_passes_its_tests_on_our_disk_and_on_qemus() {
    tested("ours");
    tested("qemu");
}

/// The guest's /init: writes, reads and checks a file system on /dev/vda, and reports its progress.
const INIT: &str = r#"echo "guest: disk $(cat /sys/block/vda/serial) $(cat /sys/block/vda/device/features)"
mount /dev/vda /mnt || echo "guest: no mount"
dd if=/dev/urandom of=/tmp-data bs=1M count=4 2>/dev/null
for n in 0 1 2 3 4 5 6 7; do
    cp /tmp-data /mnt/data$n && sync && echo 3 >/proc/sys/vm/drop_caches
    cmp /tmp-data /mnt/data$n && echo "guest: copy $n is right"
done
echo "guest: sha256 $(sha256sum </mnt/data7)"
umount /mnt && echo "guest: unmounted"
poweroff -f
"#;

/// A Linux guest and its output.
struct Linux(Session);

impl Linux {
    fn start(command: &Command) -> Linux {
        let mut session = Session::start(command);
        session.close();
        Linux(session)
    }

    /// Reads until this text.
    #[track_caller]
    fn expect(&mut self, what: &str) {
        self.0.expect(what, LIMIT);
    }

    /// Reads until the end.
    #[track_caller]
    fn end(self) -> String {
        let (status, seen) = self.0.end(LIMIT);
        assert_eq!(status, Some(0), "{seen}");
        for n in 0..8 {
            let right = format!("guest: copy {n} is right");
            assert!(seen.contains(&right), "{right:?}: {seen}");
        }
        assert!(seen.contains("guest: unmounted"), "{seen}");
        seen
    }
}

/// Returns `hartvisor run` with Debian's kernel.
fn hartvisor_run(folder: &Path, disk: &Path) -> Command {
    let mut command = Command::new(HARTVISOR);
    command
        .args(["run", "--accel", "qemu", "--memory", "512M", "--no-reboot"])
        .args(["--cmdline", "console=hvc0 quiet panic=-1", "--kernel"])
        .arg(cached("host", "vmlinux"))
        .arg("--initrd")
        .arg(initramfs(folder, "host", &format!("{AT_CONSOLE}{INIT}")))
        .arg("--disk")
        .arg(format!("{},serial=ours", disk.display()));
    command
}

#[test]
fn linux_under_qemu_writes_and_reads_our_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = ext4(folder.path());
    let seen = Linux::start(&hartvisor_run(folder.path(), &disk)).end();
    // Bit by bit, lowest first. QEMU's own disks have GEOMETRY, Hartvisor's do not.
    let features = seen.split("guest: disk ours ").nth(1).expect(&seen);
    let bits: Vec<bool> = features.bytes().map(|bit| bit == b'1').collect();
    let (geometry, flush, config_wce, write_zeroes) = (4, 9, 11, 14);
    assert!(bits[flush] && bits[config_wce] && bits[write_zeroes] && !bits[geometry]);
    let said = seen.split("guest: sha256 ").nth(1).expect(&seen);
    assert_clean(&disk);
    let copy = folder.path().join("data");
    let dump = format!("dump /data7 {}", copy.display());
    succeed(Command::new("debugfs").args(["-R", &dump]).arg(&disk));
    let sum = succeed(Command::new("sha256sum").arg(&copy));
    assert_eq!(sum.split(' ').next(), said.split(' ').next());
}

#[test]
fn a_killed_qemu_leaves_a_file_system_that_its_journal_repairs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = ext4(folder.path());
    let mut linux = Linux::start(&hartvisor_run(folder.path(), &disk));
    linux.expect("guest: copy 2 is right");
    let pid = linux.0.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let qemu = children.trim().parse().unwrap();
    kill(Pid::from_raw(qemu), Signal::SIGKILL).unwrap();
    assert_eq!(linux.0.end(LIMIT).0, Some(4));
    // The journal is replayed. After that nothing needs repair.
    let replay = Command::new("/sbin/e2fsck").arg("-p").arg(&disk).status();
    assert!(replay.unwrap().code().unwrap() <= 1);
    assert_clean(&disk);
    // Synced data is present.
    let dump = |n: u32| {
        let copy = folder.path().join(format!("copy{n}"));
        let dump = format!("dump /data{n} {}", copy.display());
        succeed(Command::new("debugfs").args(["-R", &dump]).arg(&disk));
        fs::read(copy).unwrap()
    };
    assert_eq!(dump(0).len(), 4 << 20);
    assert!(dump(0) == dump(1) && dump(1) == dump(2));
}

/// `hartvisor vhost-user` in one process, QEMU in another.
#[test]
fn a_back_end_that_is_killed_and_started_again_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = ext4(folder.path());
    let socket = folder.path().join("socket");
    let serve = || {
        let mut command = Command::new(HARTVISOR);
        command.args(["vhost-user", "--socket"]).arg(&socket);
        let device = format!("block,path={},serial=ours", disk.display());
        undisturbed(command.arg("--device").arg(device))
            .spawn()
            .unwrap()
    };
    let mut back_end = serve();
    let mut command = Command::new("qemu-system-riscv64");
    command
        .args(["-machine", "virt,memory-backend=ram", "-m", "512M"])
        .args(["-object", "memory-backend-memfd,id=ram,size=512M,share=on"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-chardev", "stdio,id=console"])
        .args(["-device", "virtio-serial-device,bus=virtio-mmio-bus.0"])
        .args(["-device", "virtconsole,chardev=console"])
        .arg("-chardev")
        .arg(format!(
            "socket,id=disk,path={},reconnect-ms=20",
            socket.display()
        ))
        .args(["-device", "vhost-user-blk,chardev=disk,queue-size=256"])
        .args(["-append", "console=hvc0 quiet panic=-1", "-kernel"])
        .arg(cached("host", "vmlinux"))
        .arg("-initrd")
        .arg(initramfs(
            folder.path(),
            "host",
            &format!("{AT_CONSOLE}{INIT}"),
        ));
    let mut linux = Linux::start(&command);
    for n in [0, 2, 4] {
        linux.expect(&format!("guest: copy {n} is right"));
        // Probably in the middle of the next writes.
        back_end.kill().unwrap();
        program::wait(&mut back_end);
        back_end = serve();
    }
    let seen = linux.end();
    kill(Pid::from_raw(back_end.id().cast_signed()), Signal::SIGTERM).unwrap();
    program::wait(&mut back_end);
    assert!(!socket.exists());
    assert!(seen.contains("guest: disk ours"), "{seen}");
    assert_clean(&disk);
}
