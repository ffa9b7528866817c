//! Options that only one accelerator has, options as other monitors spell them, and what a run says
//! about itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::Value;

mod support;

use support::folder::{Folder, expect};
use support::program::output;

#[test]
fn options_for_kvm_are_refused_under_qemu() {
    let folder = Folder::new();
    for how in ["--accel=qemu", "--print-command"] {
        folder.refused(
            &[how, "--sbi", "pmu=off"],
            &["--sbi", "under QEMU", "--accel kvm"],
        );
    }
}

#[test]
fn shared_memory_is_shared_whatever_devices_there_are() {
    let folder = Folder::new();
    let options = ["--memory", "64M,shared", "--devices", "qemu"];
    let run = ["run", "--kernel", "kernel", "--print-command"];
    let output = output(folder.command().args(run).args(options));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("memory-backend-memfd"), "{text}");
}

#[test]
fn an_option_with_one_dash_gets_a_hint() {
    let folder = Folder::new();
    let output = folder.run(&["-kernel", "kernel"]);
    expect(&output, 2, &["did you mean --kernel?"]);
    let output = folder.run(&["--kernel", "kernel", "-x"]);
    expect(&output, 2, &["'-x'", "hartvisor run --help"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("mean"));
}

#[test]
fn a_wrong_option_names_the_help_of_its_command() {
    for (command, help) in [
        (&["--frobnicate"][..], "(see hartvisor --help)"),
        (&["check", "--frobnicate"], "(see hartvisor check --help)"),
        (&["run", "--frobnicate"], "(see hartvisor run --help)"),
    ] {
        expect(&output(Folder::new().command().args(command)), 2, &[help]);
    }
}

#[test]
fn a_disk_on_a_socket_is_named_as_everywhere() {
    let folder = Folder::new();
    folder.file("disk", &[0; 513]);
    for device in [
        "block,disk",
        "block,path=disk",
        "block,file=disk,readonly=on",
    ] {
        let arguments = ["vhost-user", "--socket", "s", "--device", device];
        let output = output(folder.command().args(arguments));
        expect(&output, 2, &["disk \"disk\"", "513"]);
    }
}

#[test]
fn a_program_that_is_not_qemu_is_named() {
    let folder = Folder::new();
    let mut command = folder.command();
    command.env("HARTVISOR_QEMU", "true");
    let run = ["run", "--kernel", "kernel", "--accel", "qemu"];
    expect(&output(command.args(run)), 3, &["true is not QEMU"]);
}

#[test]
fn the_report_of_check_is_json_too() {
    let output = output(Folder::new().command().args(["check", "--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["qemu"]["usable"], false, "{report}");
    let why = report["qemu"]["why"].as_str().unwrap();
    assert!(why.contains("no-such-qemu"), "{report}");
    let (auto, status) = match report["kvm"]["usable"].as_bool().unwrap() {
        true => (Value::from("kvm"), 0),
        false => (Value::Null, 3),
    };
    assert_eq!(report["auto"], auto);
    assert_eq!(output.status.code(), Some(status));
}

#[test]
fn the_log_says_what_a_run_consists_of() {
    let folder = Folder::new();
    folder.file("disk", &[0; 4096]);
    folder.file("initrd", &[0; 100]);
    let mut command = folder.command();
    command.env("HARTVISOR_LOG", "info");
    command.args(["run", "--kernel", "kernel", "--accel", "qemu"]);
    command.args(["--disk", "disk,readonly,direct=off", "--initrd", "initrd"]);
    let output = output(command.args(["--memory", "64M", "--serial", "null"]));
    let text = String::from_utf8(output.stderr).unwrap();
    for part in [
        "info: kernel \"kernel\": ELF, 0x80200000..0x8020",
        "entry 0x80200000",
        "info: initrd \"initrd\": 0x83",
        "info: vCPUs: 1; RAM: 64M\n",
        "info: disk0 \"disk\": raw, 4K, read-only, cache=writeback, lock=on, queues=1,",
        "info: --serial null\n",
        "info: accelerator: QEMU (--accel qemu)\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
