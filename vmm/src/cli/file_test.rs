//! Options from a file.

use std::fs;

use super::*;
use crate::cli::{Accel, Command, Parsed, Run, parse};

/// Parses these arguments and `--config` with a file of this name and content.
fn run(name: &str, content: &str, arguments: &[&str]) -> Result<Run, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let mut all: Vec<OsString> = ["hartvisor", "run", "--config"].map(OsString::from).into();
    all.push(path.into());
    all.extend(arguments.iter().map(OsString::from));
    match parse(all) {
        Ok(Parsed::Command(Command::Run(run))) => Ok(*run),
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            Err(error.chain())
        }
    }
}

const TOML: &str = r#"
kernel = "Image,format=image"  # a comment
cmdline = "--x console=hvc0"
cpus = 4
memory = "1G"
disk = ["a.img,serial=one", "b,,c.img,readonly"]
accel = "qemu"
print-command = false
"#;

const JSON: &str = r#"{
  "kernel": "Image,format=image", "cmdline": "--x console=hvc0", "cpus": 4, "memory": 1073741824,
  "disk": ["a.img,serial=one", "b,,c.img,readonly"], "accel": "qemu", "print-command": false
}"#;

#[test]
fn a_file_says_what_the_command_line_could() {
    for (name, content) in [
        ("vm.toml", TOML),
        ("vm.json", JSON),
        ("vm.conf", TOML),
        ("vm", JSON),
    ] {
        let run = run(name, content, &[]).unwrap();
        assert_eq!(run.kernel.unwrap().path, PathBuf::from("Image"));
        assert_eq!(run.cmdline, "--x console=hvc0");
        assert_eq!((run.cpus, run.accel), (4, Accel::Qemu));
        assert_eq!((run.disks.len(), run.print_command), (2, false));
        assert_eq!(run.disks[1].path, PathBuf::from("b,c.img"));
    }
}

#[test]
fn the_command_line_overrides_the_file() {
    let arguments = [
        "--cpus=2",
        "--disk",
        "mine",
        "--kernel=k",
        "--print-command",
    ];
    let run = run("vm.toml", TOML, &arguments).unwrap();
    assert_eq!((run.cpus, run.print_command), (2, true));
    assert_eq!(run.kernel.unwrap().path, PathBuf::from("k"));
    let disks: Vec<_> = run.disks.iter().map(|disk| disk.path.clone()).collect();
    assert_eq!(disks, [PathBuf::from("mine")]);
    assert_eq!(run.cmdline, "--x console=hvc0");
}

#[test]
fn one_disk_needs_no_list_and_a_switch_is_true_or_false() {
    let run = run("c.toml", "kernel='k'\ndisk='d'\nprint-command=true", &[]).unwrap();
    assert_eq!((run.disks.len(), run.print_command), (1, true));
}

#[test]
fn an_option_whose_value_may_be_left_out_is_true_false_or_the_value() {
    for (value, expected) in [("true", Some(0)), ("false", None), ("7", Some(7))] {
        let text = format!("kernel='k'\nno-reboot={value}");
        assert_eq!(run("c.toml", &text, &[]).unwrap().no_reboot, expected);
    }
    let error = run("c.toml", "kernel='k'\nno-reboot=256", &[]).unwrap_err();
    assert!(error.contains("256"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_in_one_line_naming_the_file() {
    for (name, content, part) in [
        (
            "c.toml",
            "kernle = 'k'",
            "unknown key \"kernle\", known are kernel, firmware, initrd",
        ),
        ("c.toml", "config = 'c'", "unknown key \"config\""),
        (
            "c.toml",
            "print_command = true",
            "unknown key \"print_command\"",
        ),
        (
            "c.toml",
            "[disk]\npath = 'd'",
            "disk is a table, expected a list of strings",
        ),
        (
            "c.toml",
            "disk = [1.5]",
            "disk is a list, expected a list of strings",
        ),
        (
            "c.toml",
            "memory = 1.5",
            "memory is 1.5, expected a string or an integer",
        ),
        (
            "c.toml",
            "cpus = [1]",
            "cpus is a list, expected a string or an integer",
        ),
        ("c.toml", "cpus = true", "cpus is true"),
        (
            "c.toml",
            "print-command = 'yes'",
            "print-command is \"yes\", expected true or false",
        ),
        ("c.toml", "cpus = 1\n\ncpus = 2", "in line 3"),
        ("c.toml", "cpus 1", "as TOML: "),
        (
            "c.json",
            "{\"cpus\": 1, \"cpus\": 2}",
            "key \"cpus\" is given twice",
        ),
        ("c.json", "{\"cpus\": null}", "cpus is null"),
        (
            "c.json",
            "[1]",
            "as JSON: invalid type: sequence, expected options by their names",
        ),
        ("c.json", "{\"cpus\": 1", "as JSON: EOF while parsing"),
        ("c", "{\"cpus\": 1", "as JSON"),
        (
            "c.toml",
            "kernel = 'k'\ncpus = 'two'",
            "invalid value 'two' for '--cpus <N>'",
        ),
        (
            "c.toml",
            "kernel = 'k'\ndisk = ['d,ro']",
            "unknown key \"ro\"",
        ),
    ] {
        let error = run(name, content, &[]).unwrap_err();
        assert!(error.contains(part), "{content}: {error}");
        assert!(
            error.starts_with("config \"") && !error.contains('\n'),
            "{error}"
        );
    }
    assert!(run("c.toml", "", &[]).unwrap_err().contains("is empty"));
}

#[test]
fn what_is_wrong_with_the_arguments_is_still_said_of_them() {
    let error = run("c.toml", "kernel = 'k'", &["--cpus", "two"]).unwrap_err();
    assert!(error.starts_with("invalid value 'two'"), "{error}");
    let error = run("c.toml", "kernel = 'k'", &["--config", "d"]).unwrap_err();
    assert!(error.contains("cannot be used multiple times"), "{error}");
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    fs::write(&path, b"kernel = '\xff'").unwrap();
    assert!(read(&path).unwrap_err().chain().contains("it is not text"));
    fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    let error = read(&path).unwrap_err().chain();
    assert!(
        error.contains("2097152 bytes, expected at most 1M"),
        "{error}"
    );
}
