//! The guest on RISC-V KVM, in the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

mod support;

use support::lab::{self, guest, hartvisor, run, text};
use support::tap;

const SIZE: usize = 1 << 20;

/// Returns a disk's content in which every byte is known.
fn content() -> Vec<u8> {
    (0..SIZE)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect()
}

/// Returns `lab/run OPTIONS -- hartvisor run --accel kvm --kernel guest ARGUMENTS`.
fn on_kvm(options: &[&str], folders: &[&Path], arguments: &[&str]) -> Command {
    let mut command = lab::lab(options, folders);
    command
        .arg(hartvisor())
        .args(["run", "--accel", "kvm", "--kernel"]);
    command.arg(guest()).args(arguments);
    command
}

/// Runs the guest's test mode with a disk option and a line of input.
fn test_mode(options: &[&str], arguments: &[&str], readonly: bool) -> (Output, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, content()).unwrap();
    let disk = format!(
        "{},serial=e2e{}",
        path.display(),
        if readonly { ",readonly" } else { "" }
    );
    let arguments = [&["--disk", &disk, "--cmdline", "test"], arguments].concat();
    let output = run(
        &mut on_kvm(options, &[folder.path()], &arguments),
        b"a typed line\n",
    );
    (output, fs::read(&path).unwrap())
}

/// Asserts that all test points passed and that exactly these were skipped.
fn assert_tap(output: &Output, skipped: &[&str]) {
    let text = text(output);
    tap::assert_passed(&text, skipped);
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[test]
fn the_guest_passes_its_tests_on_a_host_without_aia() {
    let (output, disk) = test_mode(&[], &[], false);
    assert_tap(&output, &["read-only", "one hart"]);
    let text = text(&output);
    assert!(text.contains("disk \"e2e\", 2048 sectors"), "{text}");
    assert!(text.contains("you typed: a typed line"), "{text}");
    assert!(disk == content(), "the guest restores what it wrote over");
}

#[test]
fn the_guest_passes_its_tests_on_a_host_with_aia_and_four_vcpus() {
    let options = ["--aia-guests", "2"];
    let (output, _) = test_mode(&options, &["--cpus", "4", "--memory", "64M"], false);
    assert_tap(&output, &["read-only"]);
}

/// KVM uses guest interrupt files if the host has them, and emulates otherwise. A user may want the
/// PLIC in both cases.
#[test]
fn the_interrupt_controller_is_the_one_asked_for() {
    let (imsic, plic) = ("APLIC (MSI) and IMSIC", "PLIC: ");
    for (host, irqchip, found) in [
        ("--aia", "auto", imsic),
        ("--aia", "plic", plic),
        ("--cpus 2", "auto", plic),
    ] {
        let (output, _) = test_mode(
            &host.split(' ').collect::<Vec<_>>(),
            &["--irqchip", irqchip, "--cpus", "2"],
            false,
        );
        assert_tap(&output, &["read-only"]);
        let text = text(&output);
        assert!(text.contains(found), "{host} {irqchip}: {text}");
    }
}

/// On a host with Smstateen, a guest's AIA CSRs trap unless they are enabled for it.
#[test]
fn the_guest_passes_its_tests_on_a_host_with_smstateen() {
    let options = ["--aia-guests", "2", "--isa", "smstateen=on"];
    let (output, _) = test_mode(&options, &["--cpus", "2"], false);
    assert_tap(&output, &["read-only"]);
}

/// Sv39 in the host, and so guest physical addresses of 41 bits.
#[test]
fn the_guest_passes_its_tests_on_a_host_with_the_smallest_address_space() {
    let options = ["--isa", "sv48=off,sv57=off"];
    let (output, _) = test_mode(&options, &[], false);
    assert_tap(&output, &["read-only", "one hart"]);
    let script = format!(
        "{0} check; {0} run --accel kvm --kernel {1} --dump-dtb /dev/stdout",
        hartvisor().display(),
        guest().display()
    );
    let output = run(lab::lab(&options, &[]).args(["sh", "-c", &script]), b"");
    let text = text(&output);
    assert!(
        text.contains("41 bits") && text.contains("riscv,sv39"),
        "{text}"
    );
}

#[test]
fn an_aia_that_the_host_lacks_is_refused_by_its_first_step() {
    let output = run(&mut on_kvm(&[], &[], &["--irqchip", "aia"]), b"");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("--irqchip aia: this host's KVM cannot create it"),
        "{text}"
    );
}

#[test]
fn extensions_are_taken_away_or_hidden_with_a_warning() {
    let arguments = [
        "--cmdline",
        "poweroff",
        "--cpu",
        "zicboz=off,zbb=off",
        "--sbi",
        "sta=off",
    ];
    let output = run(&mut on_kvm(&[], &[], &arguments), b"");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("zbb=off: KVM cannot disable it, it is only hidden from the device tree"),
        "{text}"
    );
    assert!(!text.contains("zicboz") && !text.contains("sta="), "{text}");
}

#[test]
fn an_extension_that_the_host_lacks_is_refused_with_those_it_has() {
    let run_with = |arguments: &[&str]| {
        let output = run(&mut on_kvm(&[], &[], arguments), b"");
        (output.status.code(), text(&output))
    };
    let (status, text) = run_with(&["--cpu", "ztso=on"]);
    assert_eq!(status, Some(2), "{text}");
    let error = "--cpu ztso=on: this host's KVM does not have ztso, it has a c d f ";
    assert!(text.contains(error), "{text}");
    // What it has anyway may be asked for.
    let (status, text) = run_with(&["--cmdline", "poweroff", "--cpu", "m=on", "--sbi", "time=on"]);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn guest_memory_may_be_larger_than_the_host_or_made_of_huge_pages() {
    let memory = |option: &str| {
        let script = format!(
            "echo 40 >/proc/sys/vm/nr_hugepages
             {} run --accel kvm --kernel {} --cmdline poweroff --memory {option}; echo status=$?",
            hartvisor().display(),
            guest().display()
        );
        text(&run(lab::lab(&[], &[]).args(["sh", "-c", &script]), b""))
    };
    assert!(memory("64G").contains("status=0"));
    assert!(memory("64M,hugepages=on,prealloc").contains("status=0"));
    assert!(memory("64M,hugepages=auto,shared").contains("status=0"));
    let refused = memory("128M,hugepages=on");
    assert!(
        refused.contains("64 huge pages of 2M are needed, 40 are free"),
        "{refused}"
    );
    assert!(refused.contains("status=3"), "{refused}");
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let (output, disk) = test_mode(&["--aia"], &[], true);
    let text = text(&output);
    assert!(text.contains("ok") && text.contains("read-only"), "{text}");
    assert_tap(
        &output,
        &["no writable block device", "no block device", "one hart"],
    );
    assert!(disk == content());
}

#[test]
fn the_end_of_the_guest_is_the_exit_status() {
    for (mode, status) in [("poweroff", 0), ("no-such-mode", 1)] {
        let output = run(&mut on_kvm(&[], &[], &["--cmdline", mode]), b"");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{mode}: {}",
            text(&output)
        );
    }
}

#[test]
fn what_is_typed_comes_back_byte_by_byte() {
    // More than a pipe and the console's queue hold. No byte that the guest takes for the end of
    // input.
    let mut typed: Vec<u8> = (0..200_000_u32)
        .map(|n| u8::try_from(n % 90 + 33).unwrap())
        .collect();
    let expected = typed.clone();
    typed.push(4);
    let output = run(&mut on_kvm(&[], &[], &["--cmdline", "echo"]), &typed);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let echoed = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = String::from_utf8(expected).unwrap();
    assert!(
        echoed.contains(&expected),
        "{} bytes came back",
        echoed.len()
    );
}

#[test]
fn sigterm_ends_the_vm_with_143() {
    let script = format!(
        "mkfifo /tmp/in /tmp/out
         {} run --accel kvm --kernel {} --cmdline echo </tmp/in >/tmp/out &
         vmm=$!; exec 3>/tmp/in; read -r line </tmp/out; echo \"$line\"
         kill -TERM $vmm; wait $vmm; echo status=$?",
        hartvisor().display(),
        guest().display()
    );
    let mut command = lab::lab(&[], &[]);
    let output = run(command.args(["sh", "-c", &script]), b"");
    let text = text(&output);
    assert!(
        text.contains("echo: what you type") && text.contains("status=143"),
        "{text}"
    );
}

#[test]
fn ctrl_a_x_leaves_and_the_terminal_is_as_before() {
    let script = format!(
        "before=$(stty -g); {} run --accel kvm --kernel {} --cmdline echo; echo status=$?
         [ \"$before\" = \"$(stty -g)\" ] && echo same-terminal",
        hartvisor().display(),
        guest().display()
    );
    let mut terminal = lab::terminal(&[], &script);
    terminal.expect("echo: what you type");
    terminal.type_in(b"ping");
    terminal.expect("ping");
    terminal.type_in(b"\x01h");
    terminal.expect("leave the guest");
    terminal.type_in(b"\x01x");
    terminal.expect("status=0");
    terminal.expect("same-terminal");
}

#[test]
fn more_vcpus_than_kvm_has_are_refused() {
    let output = run(&mut on_kvm(&[], &[], &["--cpus", "100000"]), b"");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--cpus 100000: expected 1 to "), "{text}");
}

#[test]
fn check_reports_what_the_host_has() {
    let output = run(lab::lab(&["--aia"], &[]).arg(hartvisor()).arg("check"), b"");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "kvm",
        "usable",
        "zicboz",
        "Hz",
        "dbcn",
        "in-kernel AIA",
        "yes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("stay asleep"), "{text}");
    let mut with_files = lab::lab(&["--aia-guests", "2"], &[]);
    let text = self::text(&run(with_files.arg(hartvisor()).arg("check"), b""));
    assert!(
        text.contains("guest interrupt files while they last"),
        "{text}"
    );
}
