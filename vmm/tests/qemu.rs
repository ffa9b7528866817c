//! Runs under QEMU, with kernels of a few hand-written instructions: how a run ends, and that
//! nothing is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::TempDir;

use vmm::config::Disk;

mod support;

use support::kernel::{Elf, fail_by_finisher, image, reboot, shutdown, wait};
use support::lab::cached;
use support::program::{self, Deadline, LIMIT, output, until};
use support::pty::Pty;
use support::session::Session;

const KERNEL: u64 = 0x8020_0000;
/// The last line that OpenSBI prints before it starts the guest.
const FIRMWARE_DONE: &str = "Boot HART MEDELEG";

struct Kernel(TempDir);

impl Kernel {
    fn new(code: &[u8]) -> Self {
        Self::of(&Elf::new(KERNEL, code))
    }

    fn of(elf: &Elf) -> Self {
        let folder = Kernel(tempfile::tempdir().unwrap());
        std::fs::write(folder.path(), elf.bytes()).unwrap();
        folder
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kernel, with a comma")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
        command
            .args(["run", "--accel", "qemu", "--kernel"])
            .arg(self.path().to_str().unwrap().replace(',', ",,"));
        command
    }

    fn run(&self) -> Output {
        output(&self.command())
    }
}

#[test]
fn a_guest_that_powers_off_gives_0() {
    let output = Kernel::new(&shutdown(0)).run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(FIRMWARE_DONE));
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_guest_that_reports_a_failure_gives_1() {
    let output = Kernel::new(&fail_by_finisher()).run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_guest_that_resets_ends_the_run_if_told_so() {
    let kernel = Kernel::new(&reboot());
    let mut command = kernel.command();
    command.arg("--no-reboot");
    let output = output(&command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_flat_image_that_leaves_its_hvc0_silent_ends_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("Image");
    let mut file = image(0x20_0000, 1 << 20, 64);
    // j . + 64, over the header.
    file[..4].copy_from_slice(&0x0400_006f_u32.to_le_bytes());
    file.extend(shutdown(0));
    std::fs::write(&kernel, file).unwrap();
    let hinted = |cmdline| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
        command.args(["run", "--accel", "qemu", "--serial", "null", "--kernel"]);
        let output = output(command.arg(&kernel).args(["--cmdline", cmdline]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stderr).contains("the guest wrote nothing to hvc0")
    };
    assert!(hinted("console=hvc0"));
    assert!(!hinted("console=ttyS0"));
}

#[test]
fn a_static_pie_runs_where_we_place_it() {
    let mut elf = Elf::new(0x1000, &shutdown(0));
    elf.kind = 3;
    let output = Kernel::of(&elf).run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn what_qemu_refuses_is_an_error_of_ours() {
    let kernel = Kernel::new(&wait());
    let disk = kernel.0.path().join("disk, too");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let option = disk.to_str().unwrap().replace(',', ",,");
    let arguments = ["--devices", "qemu", "--disk", &option];
    let mut first = Pty::start(kernel.command().args(arguments));
    first.expect(FIRMWARE_DONE);
    // The first one has it locked.
    let output = output(kernel.command().args(arguments));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains("lock") && text.contains("failed with exit status: 1"),
        "{text}"
    );
}

#[test]
fn a_disk_that_another_guest_has_is_refused() {
    let kernel = Kernel::new(&wait());
    let disk = kernel.0.path().join("disk");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let mut first = Pty::start(kernel.command().arg("--disk").arg(&disk));
    first.expect(FIRMWARE_DONE);
    let mut second = kernel.command();
    let output = output(second.arg("--disk").arg(&disk));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("another machine has disk"), "{text}");
}

#[test]
fn a_packed_kernel_and_a_raw_one_run_as_they_are_meant() {
    let elf = Elf::new(KERNEL, &shutdown(0)).bytes();
    let packed = compress_to_vec(&elf[..], CompressionLevel::Fastest);
    let folder = tempfile::tempdir().unwrap();
    let run = |bytes: &[u8], option: &str| {
        let path = folder.path().join("kernel");
        std::fs::write(&path, bytes).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
        command.args(["run", "--accel", "qemu", "--kernel"]);
        command.arg(format!("{}{option}", path.display()));
        let output = output(&command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    run(&packed, "");
    run(&shutdown(0), ",format=raw");
}

#[test]
fn the_device_tree_of_qemu_can_be_had_and_given_back() {
    let kernel = Kernel::new(&shutdown(0));
    let tree = |arguments: &[&str]| {
        let mut command = kernel.command();
        command.args(["--dump-dtb", "/dev/stdout", "--cmdline", "one two"]);
        let output = output(command.args(arguments));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        output.stdout
    };
    let first = tree(&["--cpus", "3"]);
    let fdt = Fdt::new(&first).unwrap();
    let bootargs = fdt.find_node("/chosen").unwrap().property("bootargs");
    assert_eq!(bootargs.unwrap().value(), b"one two\0");
    assert!(fdt.find_node("/cpus/cpu@2").is_some());
    let path = kernel.0.path().join("tree");
    std::fs::write(&path, &first).unwrap();
    let mut command = kernel.command();
    let output = output(command.args(["--cpus", "3", "--dtb", path.to_str().unwrap()]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn signals_end_qemu_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let kernel = Kernel::new(&wait());
        let mut pty = Pty::start(kernel.command().env("HARTVISOR_LOG", "debug"));
        pty.expect(FIRMWARE_DONE);
        assert!(pty.is_raw());
        let qemu = children(pty.child.id());
        assert_eq!(qemu.len(), 1);
        pty.signal(signal);
        assert_eq!(pty.wait().code(), Some(128 + signal as i32));
        // A killed QEMU does not report its shutdown.
        pty.expect("SHUTDOWN");
        assert_eq!(pty.mode(), pty.before);
        assert!(!pty.is_nonblocking());
        assert_gone(qemu[0]);
    }
}

/// Returns the letter of a process's state in proc_pid_stat(5).
fn state(pid: u32) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.split("State:").nth(1)?.trim_start().chars().next()
}

#[test]
fn sigtstp_stops_qemu_too_and_sigcont_lets_both_go_on() {
    let kernel = Kernel::new(&wait());
    let mut pty = Pty::start(&mut kernel.command());
    pty.expect(FIRMWARE_DONE);
    let ours = pty.child.id();
    let qemu = u32::try_from(children(ours)[0].as_raw()).unwrap();
    for _ in 0..3 {
        for (signal, stopped) in [(Signal::SIGTSTP, true), (Signal::SIGCONT, false)] {
            pty.signal(signal);
            until(
                "both stop, or go on",
                &mut Deadline::of(ours, LIMIT),
                || {
                    let stop = |pid| state(pid) == Some('T');
                    (stop(ours) == stopped && stop(qemu) == stopped).then_some(())
                },
            );
        }
    }
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(0));
}

#[test]
fn ctrl_a_x_leaves_with_0_and_the_terminal_restored() {
    let kernel = Kernel::new(&wait());
    let mut pty = Pty::start(&mut kernel.command());
    pty.expect(FIRMWARE_DONE);
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(0));
    assert_eq!(pty.mode(), pty.before);
    assert!(!pty.is_nonblocking());
}

/// U-Boot uses the serial port, and has a driver for neither of the virtio console's queues.
#[test]
fn keys_reach_the_console_that_the_guest_uses() {
    let u_boot = cached("u-boot", "u-boot.bin");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args(["run", "--accel", "qemu", "--kernel"]);
    let mut pty = Pty::start(command.arg(format!("{},format=raw", u_boot.display())));
    pty.expect("U-Boot 20");
    // It does not wait for the end of its countdown.
    pty.type_in(b"\n");
    pty.expect("=> ");
    pty.type_in(b"echo typed as $baudrate\n");
    pty.expect("typed as 115200");
    pty.type_in(b"\x01h");
    pty.expect("leave the guest");
    pty.type_in(b"\x01x");
    assert_eq!(pty.wait().code(), Some(0));
}

#[test]
fn consoles_and_their_errors_are_those_of_kvm() {
    let kernel = Kernel::new(&shutdown(0));
    for (arguments, label) in [
        (["--console", "null", "--serial", "pty"], "--serial"),
        (
            ["--serial", "null", "--port", "name=x,target=pty"],
            "--port x",
        ),
    ] {
        let run = output(kernel.command().args(arguments));
        let text = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert_eq!(run.status.code(), Some(0), "{text}");
        let expected = format!("hartvisor: {label} is at /dev/pts/");
        assert!(text.starts_with(&expected), "{text}");
        assert!(!text.contains("char device"), "{text}");
    }
    for (option, value) in [
        ("--console", "file:/proc/none"),
        ("--serial", "file:/proc/none"),
        ("--port", "name=x,target=file:/proc/none"),
        ("--port", "name=x,target=socket:/proc/none"),
    ] {
        let run = output(kernel.command().args([option, value]));
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{text}");
        let expected = format!("hartvisor: {option}: cannot create \"/proc/none\"");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn a_killed_qemu_is_an_error_and_the_terminal_restored() {
    let kernel = Kernel::new(&wait());
    let mut pty = Pty::start(&mut kernel.command());
    pty.expect(FIRMWARE_DONE);
    kill(children(pty.child.id())[0], Signal::SIGKILL).unwrap();
    assert_eq!(pty.wait().code(), Some(4));
    assert_eq!(pty.mode(), pty.before);
    assert!(!pty.is_nonblocking());
    pty.expect("failed with signal: 9");
}

#[test]
fn qemu_does_not_outlive_a_killed_hartvisor() {
    let kernel = Kernel::new(&wait());
    let mut pty = Pty::start(&mut kernel.command());
    pty.expect(FIRMWARE_DONE);
    let qemu = children(pty.child.id());
    pty.signal(Signal::SIGKILL);
    pty.wait();
    assert_gone(qemu[0]);
}

/// Returns the children of a process.
fn children(pid: u32) -> Vec<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// Waits until a process has exited.
#[track_caller]
fn assert_gone(pid: Pid) {
    let mut deadline = Deadline::of(pid.as_raw().cast_unsigned(), LIMIT);
    until("the end of QEMU", &mut deadline, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

/// Starts QEMU with a disk, paused. Its QMP greeting comes once the disk is open.
fn other_machine(image: &Path, readonly: bool) -> Output {
    let readonly = if readonly { "on" } else { "off" };
    let drive = format!(
        "driver=raw,node-name=d,read-only={readonly},file.driver=file,file.filename={}",
        image.display()
    );
    let mut qemu = Command::new("qemu-system-riscv64");
    qemu.args(["-machine", "virt", "-S", "-nodefaults", "-display", "none"])
        .args(["-qmp", "stdio", "-blockdev", &drive])
        .args(["-device", "virtio-blk-device,drive=d"]);
    // It may have exited already because it could not open the image.
    let input = b"{\"execute\": \"qmp_capabilities\"}{\"execute\": \"quit\"}";
    program::output_within(LIMIT, &qemu, input)
}

#[test]
fn an_image_that_we_have_is_refused_to_qemu_and_readers_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, [0; 4096]).unwrap();
    for (ours, theirs, both) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, true, true),
    ] {
        let option = Disk { readonly: ours, ..Disk::new(image.clone()) };
        let disks = vmm::host::disk::open(&[option], 1).unwrap();
        disks[0].lock().unwrap();
        let output = other_machine(&image, theirs);
        assert_eq!(output.status.success(), both, "{ours} {theirs}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("lock"), !both, "{said}");
        drop(disks);
        assert!(other_machine(&image, theirs).status.success());
    }
}

#[test]
fn an_image_that_qemu_has_is_refused_to_us_and_readers_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, [0; 1 << 20]).unwrap();
    let image_name = image.to_str().unwrap();
    for theirs in ["", ",readonly"] {
        // With its own devices, QEMU takes the lock.
        let kernel = Kernel::new(&wait());
        let mut qemu = kernel.command();
        qemu.args(["--devices", "qemu", "--disk"]);
        qemu.arg(format!("{image_name}{theirs}"));
        let mut qemu = Session::start(&qemu);
        qemu.expect(FIRMWARE_DONE, LIMIT);
        for readonly in [false, true] {
            let option = Disk { readonly, ..Disk::new(image.clone()) };
            let disks = vmm::host::disk::open(&[option], 1).unwrap();
            let both = readonly && !theirs.is_empty();
            let lock = disks[0].lock();
            assert_eq!(lock.is_ok(), both, "{theirs} {readonly}: {lock:?}");
        }
        qemu.signal(Signal::SIGTERM);
        let (status, said) = qemu.end(LIMIT);
        assert_eq!(status, Some(143), "{said}");
    }
}
