//! Exceptions that KVM leaves to user space, on RISC-V KVM in the emulated host, compared with
//! QEMU's harts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

mod support;

use support::kernel::{Elf, jump};
use support::lab::{self, guest, hartvisor, run, text};
#[cfg(feature = "full")]
use support::linux;

/// The guest's memory, which determines the end of RAM.
const MEMORY: &str = "64M";

/// Cases that QEMU's harts execute: they split misaligned accesses and allow every access to a
/// device. For cbo.zero they report the address of the block.
const EXECUTED_BY_QEMU: [&str; 15] = [
    "lh misaligned",
    "lw misaligned",
    "lw half misaligned",
    "ld misaligned",
    "sh misaligned",
    "sw misaligned",
    "sd misaligned",
    "fsw misaligned",
    "amoadd.w",
    "amoswap.w",
    "lr.w",
    "cbo.zero",
    "vle32",
    "sw to virtio misaligned",
    "amoadd.w to virtio",
];

/// Cases with a page table beyond RAM: QEMU raises page faults where the specification requires
/// access faults.
const BY_A_TABLE: &str = "by a table beyond RAM";

/// Parses the output of the guest's mode `faults`: the result of each case, by space and name.
fn lines(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (case, result) = line.trim().strip_prefix("fault: ")?.split_once(": ")?;
        Some((case.to_owned(), result.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn exceptions_are_those_of_a_hart() {
    let arguments = ["--memory", MEMORY, "--cmdline", "faults", "--no-reboot"];
    let mut command = lab::lab(&["--isa", "v=on,zcb=on"], &[]);
    command.arg(hartvisor()).args(["run", "--accel", "kvm"]);
    let output = run(command.args(arguments).arg("--kernel").arg(guest()), b"");
    let kvm_text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{kvm_text}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command.args(["run", "--accel", "qemu", "--cpu", "v=on,zcb=on"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = run(command.args(arguments).arg("--kernel").arg(guest()), b"");
    let qemu_text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{qemu_text}");

    let (kvm, qemu) = (lines(&kvm_text), lines(&qemu_text));
    assert!(kvm.len() > 120, "{kvm_text}");
    assert_eq!(kvm.len(), qemu.len(), "{kvm_text}{qemu_text}");
    for (case, found) in &kvm {
        let (space, name) = case.split_once(' ').unwrap();
        let spp = u8::from(space != "User");
        let exception = |cause: u8, at: &str, value: &str| {
            format!("cause {cause} at {at}, value {value}, spp {spp}, spie 1, sie 0")
        };
        // U-mode may not use cache-block operations: both raise an illegal instruction exception.
        let expected = if EXECUTED_BY_QEMU.contains(&name) && case != "User cbo.zero" {
            let load = name.starts_with('l') || name.starts_with('v');
            let at = if name.starts_with('v') {
                "code+4"
            } else {
                "code+0"
            };
            exception(if load { 5 } else { 7 }, at, "address+0")
        } else if name == "lw from a hole" {
            "done 0".to_owned()
        } else if let Some(what) = name.strip_suffix(BY_A_TABLE) {
            match what.trim() {
                "lw" => exception(5, "code+0", "address+0"),
                "sw" => exception(7, "code+0", "address+0"),
                _ => exception(1, "address+0", "address+0"),
            }
        } else {
            qemu[case].clone()
        };
        assert_eq!(*found, expected, "{case}: {kvm_text}{qemu_text}");
    }
    for case in ["fsw, flw", "c.sb, c.lbu, c.mv"] {
        for space in ["Bare", "Paged", "User"] {
            assert!(
                kvm[&format!("{space} {case}")].starts_with("done"),
                "{case}: {kvm_text}"
            );
        }
    }
}

/// Whether a guest can continue depends on its exception handler's address.
#[test]
fn a_jump_to_where_no_ram_is_goes_to_the_trap_vector() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    fs::write(&good, Elf::new(0x8020_0000, &jump(true)).bytes()).unwrap();
    fs::write(&bad, Elf::new(0x8020_0000, &jump(false)).bytes()).unwrap();
    let script = format!(
        "for kernel in {} {}; do {} run --accel kvm --kernel $kernel; echo status=$?; done",
        good.display(),
        bad.display(),
        hartvisor().display(),
    );
    let mut command = lab::lab(&[], &[folder.path()]);
    let output = run(command.args(["sh", "-c", &script]), b"");
    let text = text(&output);
    let status: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("status="))
        .collect();
    assert_eq!(status, ["status=0", "status=1"], "{text}");
    assert!(
        text.contains(
            "trap vector 0xa0000000 (stvec) is at an address where nothing can be executed"
        ),
        "{text}"
    );
}

/// The first kernel's last fetch uses a virtual address with paging disabled. kexec relies on the
/// exception.
#[cfg(feature = "full")]
#[test]
fn linux_starts_another_kernel_by_kexec() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    fs::create_dir_all(first.join("root/bin")).unwrap();
    let program = lab::target().join("riscv64gc-unknown-linux-gnu/release/examples/kexec");
    fs::copy(program, first.join("root/bin/kexec")).unwrap();
    let start = r#"echo "guest: first $cpus"; kexec /dev/vda /dev/vdb; poweroff -f"#;
    let end = r#"echo "guest: second $cpus"; poweroff -f"#;
    let cpus = "cpus=$(grep -c ^processor /proc/cpuinfo)";
    let begin = format!("{}{cpus}\n", linux::at_console("vdb"));
    let initramfs =
        |folder, script| linux::initramfs(folder, "host", &format!("{begin}{script}\n"));
    let (first, second) = (initramfs(&first, start), initramfs(&second, end));
    // The second kernel gets the first one's device tree, which has the size of the first initrd.
    let size = fs::metadata(&first).unwrap().len().next_multiple_of(4096);
    for file in [&first, &second] {
        let file = fs::File::options().write(true).open(file).unwrap();
        assert!(file.metadata().unwrap().len() <= size);
        file.set_len(size).unwrap();
    }
    let kernel = lab::host_file("vmlinux");
    let mut command = lab::lab(&["--timeout", "900"], &[folder.path()]);
    command
        .arg(hartvisor())
        .args(["run", "--accel", "kvm", "--memory", "384M", "--cpus", "3"])
        .args(["--no-reboot", "--cmdline", "console=hvc0 quiet panic=-1"])
        .arg("--kernel")
        .arg(&kernel)
        .arg("--initrd")
        .arg(&first);
    for disk in [&kernel, &second] {
        let disk = format!("{},readonly", disk.display());
        command.args(["--disk", &disk]);
    }
    let output = run(&mut command, b"");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("guest: first 3"), "{text}");
    assert!(text.contains("guest: second 3"), "{text}");
}
