//! Parsing of the command line.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::*;
use crate::config::{DiskFormat, HugePages};

fn disk(text: &str) -> Result<Disk, String> {
    Disk::parse(OsStr::new(text))
}

fn run(arguments: &[&str]) -> Result<Run, String> {
    let all = ["hartvisor", "run"]
        .iter()
        .chain(arguments)
        .map(OsString::from);
    match parse(all) {
        Ok(Parsed::Command(Command::Run(run))) => Ok(*run),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_kernel_alone_gets_the_defaults() {
    let run = run(&["--kernel", "k"]).unwrap();
    assert_eq!(
        (run.cpus, run.memory.size, run.cmdline.as_str()),
        (1, 256 << 20, "")
    );
    assert_eq!(
        (run.accel, run.print_command, run.disks.len()),
        (Accel::Auto, false, 0)
    );
}

#[test]
fn a_disk_needs_no_kernel() {
    let run = run(&["--disk", "d", "--firmware", "u-boot.bin"]).unwrap();
    assert_eq!(run.kernel, None);
    assert_eq!(run.firmware, Some(PathBuf::from("u-boot.bin")));
}

#[test]
fn a_command_line_may_begin_with_a_hyphen() {
    assert_eq!(
        run(&["--kernel", "k", "--cmdline", "--x -- y=1,2"])
            .unwrap()
            .cmdline,
        "--x -- y=1,2"
    );
}

#[test]
fn disk_options_are_read_in_any_order() {
    let expected =
        Disk { readonly: true, serial: Some("root disk".into()), ..Disk::new("a.img".into()) };
    assert_eq!(
        disk("a.img,readonly,serial=root disk"),
        Ok(expected.clone())
    );
    assert_eq!(disk("a.img,serial=root disk,readonly"), Ok(expected));
}

#[test]
fn doubled_commas_belong_to_the_name() {
    assert_eq!(
        disk("a,,b.img,readonly").unwrap().path,
        PathBuf::from("a,b.img")
    );
    assert_eq!(
        disk("a,,,readonly").unwrap(),
        Disk { readonly: true, ..Disk::new("a,".into()) }
    );
    assert_eq!(
        disk("d,serial=x,,y").unwrap().serial.as_deref(),
        Some("x,y")
    );
}

#[test]
fn a_file_name_need_not_be_unicode() {
    let name = OsString::from_vec(b"\xff.img,readonly".to_vec());
    assert_eq!(
        Disk::parse(&name).unwrap().path.as_os_str().as_bytes(),
        b"\xff.img"
    );
}

#[test]
fn a_serial_has_1_to_20_printable_characters() {
    assert!(disk("d,serial=12345678901234567890").is_ok());
    assert!(
        disk("d,serial=123456789012345678901")
            .unwrap_err()
            .contains("has 21 bytes, at most 20")
    );
    assert!(disk("d,serial=").unwrap_err().contains("1 to 20"));
    assert!(disk("d,serial=é").unwrap_err().contains("printable ASCII"));
    for twice in ["d,serial=a,serial=b", "d,lock=off,lock=on"] {
        assert!(disk(twice).unwrap_err().contains("twice"));
    }
}

#[test]
fn what_a_disk_does_is_said_by_keys() {
    assert_eq!(
        disk("d,cache=writethrough,direct=on,queues=3,block-size=4096,lock=off,format=raw"),
        Ok(Disk {
            write_through: true,
            direct: true,
            queues: Some(3),
            block_size: 4096,
            lock: false,
            format: Some(DiskFormat::Raw),
            ..Disk::new("d".into())
        })
    );
    let text = "a,,b,readonly,serial=x,,y,cache=writethrough,queues=3,block-size=4096,lock=off,format=qcow2,backing=on";
    assert_eq!(disk(text).unwrap().text(), text);
    let plain = Ok(Disk::new("d".into()));
    let same = "d,cache=writeback,direct=off,block-size=512,lock=on,readonly=off";
    assert_eq!(disk(same), plain);
    for number in ["0", "17", "-1", "x", ""] {
        let error = disk(&format!("d,queues={number}")).unwrap_err();
        assert!(error.contains("expected 1 to 16"), "{error}");
    }
    let error = disk("d,cache=unsafe").unwrap_err();
    assert!(error.contains("cache cannot be \"unsafe\""), "{error}");
}

#[test]
fn unknown_disk_keys_are_refused_naming_the_known_ones() {
    for text in [
        "d,ro",
        "d,readonly=yes",
        "d,",
        "d,format=vmdk",
        "d,block-size=1024",
    ] {
        let error = disk(text).unwrap_err();
        assert!(error.contains("readonly[=on|off], serial=TEXT"), "{error}");
    }
    assert!(
        disk(",readonly")
            .unwrap_err()
            .contains("file name is missing")
    );
}

#[test]
fn the_spellings_of_other_monitors_are_understood() {
    let expected = Disk { readonly: true, ..Disk::new("a.img".into()) };
    for text in ["path=a.img,readonly=on", "file=a.img,readonly"] {
        assert_eq!(disk(text), Ok(expected.clone()));
    }
    assert_eq!(disk("path=path=a").unwrap().path, PathBuf::from("path=a"));
    assert_eq!(disk("./path=a").unwrap().path, PathBuf::from("./path=a"));
    assert!(disk("path=").unwrap_err().contains("file name is missing"));
    assert!(disk("a,path=b").unwrap_err().contains("\"path=b\""));
}

#[test]
fn usage_errors_are_one_line_with_the_value() {
    for (arguments, part) in [
        (&["--kernel", "k", "--memory", "lots"][..], "'lots'"),
        (&["--kernel", "k", "--cpus", "-1"], "'-1'"),
        (
            &["--kernel", "k", "--cpus", "two"],
            "a whole number from 1 to 512",
        ),
        (&["--kernel", "k", "--disk", "d,ro"], "\"ro\""),
        (&["--kernel", "k", "--accel", "xen"], "'xen'"),
        (&["--kernle", "k"], "'--kernle'"),
    ] {
        let error = run(arguments).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn memory_has_a_size_and_says_what_it_is_made_of() {
    let memory = |text| run(&["--kernel", "k", "--memory", text]).map(|run| run.memory);
    let plain = memory("512M").unwrap();
    assert_eq!((plain.size, plain.hugepages), (512 << 20, HugePages::Off));
    let full = memory("size=1G,hugepages=auto,prealloc,shared").unwrap();
    assert_eq!((full.size, full.hugepages), (1 << 30, HugePages::Auto));
    assert!(full.prealloc && full.shared);
    for (text, part) in [
        (
            "1G,huge",
            "known are hugepages=on|off|auto, prealloc and shared",
        ),
        ("1G,hugepages=yes", "\"hugepages=yes\""),
        ("hugepages=on", "expected a size"),
    ] {
        assert!(memory(text).unwrap_err().contains(part), "{text}");
    }
}

#[test]
fn extensions_are_switched_by_name() {
    let isa = run(&[
        "--kernel",
        "k",
        "--cpu",
        "zbb=off,sstc=on",
        "--sbi",
        "pmu=off",
    ])
    .unwrap();
    let names: Vec<_> = isa.isa.iter().map(|it| (it.name, it.on)).collect();
    assert_eq!(names, [("zbb", false), ("sstc", true)]);
    assert_eq!(isa.sbi[0].name, "pmu");
    for wrong in ["zbb", "zzz=off"] {
        assert!(run(&["--kernel", "k", "--cpu", wrong]).is_err());
    }
}

#[test]
fn a_run_means_the_same_whether_or_not_the_other_commands_are_defined() {
    let words = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
    let said =
        words("hartvisor run --kernel k --disk a.img --disk b.img,readonly --cpus=2 --stats -");
    let alone = run_alone(&said).expect("there is no fault in it");
    let Command::Run(run) = Cli::try_parse_from(&said).unwrap().command else {
        panic!("another command");
    };
    assert_eq!(format!("{alone:?}"), format!("{run:?}"));

    for left_to_all in [
        "hartvisor",
        "hartvisor check",
        "hartvisor run --help",
        "hartvisor run --kernel k --kernal k",
    ] {
        assert!(run_alone(&words(left_to_all)).is_none(), "{left_to_all}");
    }
}
