//! The real program with invalid input: the exit status, one line on stderr, and the invalid value
//! in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;

mod support;

use support::folder::{Folder, KERNEL, expect};
use support::kernel::{Elf, image, shutdown};
use support::program::output;

#[test]
fn a_kernel_that_is_none_is_named_with_what_would_be_right() {
    let folder = Folder::new();
    expect(
        &folder.run(&["--kernel", "absent"]),
        2,
        &["kernel \"absent\"", "No such file"],
    );
    expect(
        &folder.run(&["--kernel", "."]),
        2,
        &["kernel \".\" is a directory", "a regular file"],
    );
    expect(
        &folder.run(&["--kernel", "/dev/null"]),
        2,
        &["\"/dev/null\" is a character device"],
    );
    expect(
        &folder.run(&["--kernel", "/etc/passwd"]),
        2,
        &["/etc/passwd", "a text file", "RISC-V Linux Image"],
    );
    expect(
        &folder.run(&[]),
        2,
        &["nothing to start: --kernel FILE starts a kernel"],
    );
    folder.refused_kernel(b"", &["is empty"]);
    folder.refused_kernel(&[0xa5; 5000], &["unknown format", "RISC-V 64-bit ELF"]);
    folder.refused_kernel(b"\xfd7zXZ\0", &["xz-compressed", "decompress it first"]);
}

#[test]
fn a_packed_kernel_that_cannot_be_unpacked_is_refused() {
    let folder = Folder::new();
    let truncated = "its gzip data is truncated: it does not end within 8 bytes";
    folder.refused_kernel(b"\x1f\x8b\x08\0\0\0\0\0", &[truncated]);
    folder.refused_kernel(b"\x28\xb5\x2f\xfd\x20\0\0\0", &["its zstd data is"]);
    let zboot = "is truncated: its EFI zboot header ends at byte 56, the file has 12";
    folder.refused_kernel(b"MZ\0\0zimg\0\0\0\0", &[zboot]);
    let mut packed = Vec::new();
    let mut encoder = GzEncoder::new(&mut packed, Compression::fast());
    io::copy(&mut io::repeat(0).take(17 << 20), &mut encoder).unwrap();
    encoder.finish().unwrap();
    folder.file("bomb", &packed);
    expect(
        &folder.run(&["--kernel", "bomb", "--memory", "16M"]),
        2,
        &[
            "\"bomb\": decompressed from gzip it is larger than the guest's RAM, 16M",
            "raise --memory",
        ],
    );
    folder.refused_kernel(
        &packed,
        &[
            "decompressed from gzip, 17825792 bytes: kernel",
            "unknown format",
            "format=raw",
        ],
    );
}

#[test]
fn a_kernel_format_that_cannot_be_is_refused() {
    let folder = Folder::new();
    let refused = |option: &str, parts: &[&str]| {
        expect(&folder.run(&["--kernel", option]), 2, parts);
    };
    refused("kernel,format=bin", &["\"bin\"", "auto, elf, image or raw"]);
    refused("kernel,raw", &["\"raw\"", "format=auto|elf|image|raw"]);
    refused(
        "kernel,format=image",
        &["kernel \"kernel\" is an ELF", "format=image"],
    );
    refused(
        "a,b",
        &[
            "unknown key \"b\"",
            "a comma in the file name is written twice",
        ],
    );
    refused("", &["file name is missing"]);
}

#[test]
fn a_pipe_as_kernel_does_not_make_us_wait() {
    let folder = Folder::new();
    nix::unistd::mkfifo(&folder.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    expect(
        &folder.run(&["--kernel", "pipe"]),
        2,
        &["\"pipe\" is a pipe"],
    );
}

#[test]
fn a_kernel_of_another_architecture_is_named() {
    let folder = Folder::new();
    let elf = Elf::new(KERNEL, &shutdown(0));
    folder.refused_kernel(
        &Elf { machine: 62, ..elf.clone() }.bytes(),
        &["is an ELF for x86_64", "RISC-V 64-bit ELF"],
    );
    folder.refused_kernel(
        &Elf { machine: 183, ..elf.clone() }.bytes(),
        &["is an ELF for arm64"],
    );
    folder.refused_kernel(
        &Elf { class: 1, ..elf }.bytes(),
        &["is a 32-bit ELF for RISC-V"],
    );
    let mut arm64 = image(0x20_0000, 0x10_0000, 4096);
    arm64[0x38..0x3c].copy_from_slice(b"ARMd");
    folder.refused_kernel(&arm64, &["an arm64 Image"]);
}

#[test]
fn a_truncated_kernel_is_noticed() {
    let folder = Folder::new();
    let bytes = Elf::new(KERNEL, &shutdown(0)).bytes();
    folder.refused_kernel(
        &bytes[..bytes.len() - 1],
        &["truncated", "ends at byte 148, the file has 147"],
    );
    folder.refused_kernel(&bytes[..100], &["truncated", "program header table"]);
    folder.refused_kernel(
        &image(0x20_0000, 0x10_0000, 4096)[..63],
        &["truncated", "has 63 bytes"],
    );
}

#[test]
fn a_kernel_too_big_for_memory_is_refused_before_anything_starts() {
    let folder = Folder::new();
    folder.refused_kernel(
        &image(0x20_0000, 1 << 30, 4096),
        &["outside RAM", "--memory 256M", "raise --memory"],
    );
    folder.refused_kernel(
        &Elf::new(0x1_0000, &shutdown(0)).bytes(),
        &["0x10000..", "0x80200000 or above"],
    );
    let mut fills = Elf::new(KERNEL, &shutdown(0));
    fills.segments[0].memory_size = 254 << 20;
    fills.segments[0].memory_size = 252 << 20;
    folder.file("big", &fills.bytes());
    folder.file("initrd", &[1; 3 << 20]);
    let output = folder.run(&["--kernel", "big", "--initrd", "initrd"]);
    expect(
        &output,
        2,
        &[
            "the initrd needs 3145728 bytes",
            "raise --memory (now 256M)",
        ],
    );
}

#[test]
fn memory_that_cannot_be_is_refused_with_the_limit() {
    let folder = Folder::new();
    folder.refused(&["--memory", "0"], &["--memory 0", "at least 16M"]);
    folder.refused(&["--memory", "8M"], &["--memory 8M", "at least 16M"]);
    folder.refused(
        &["--memory", "65M"],
        &["--memory 65M", "multiple of 2M", "64M or 66M"],
    );
    folder.refused(&["--memory", "1000000T"], &["at most 2046G"]);
    folder.refused(
        &["--memory", "99999999999T"],
        &["'99999999999T'", "256M, 1.5G"],
    );
    folder.refused(&["--memory", "-1G"], &["'-1G'"]);
    folder.refused(&["--memory", "much"], &["'much'"]);
}

#[test]
fn vcpus_that_cannot_be_are_refused_with_the_limit() {
    let folder = Folder::new();
    folder.refused(&["--cpus", "0"], &["--cpus 0", "1 to 512"]);
    folder.refused(&["--cpus", "513"], &["--cpus 513", "1 to 512"]);
    folder.refused(&["--cpus", "two"], &["'two'"]);
    folder.refused(&["--cpus", "5000000000"], &["'5000000000'"]);
}

#[test]
fn disks_that_cannot_be_are_refused() {
    let folder = Folder::new();
    File::create(folder.path("odd"))
        .unwrap()
        .set_len(1000)
        .unwrap();
    File::create(folder.path("empty")).unwrap();
    File::create(folder.path("good"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    folder.refused(&["--disk", "absent"], &["disk \"absent\"", "No such file"]);
    folder.refused(&["--disk", "."], &["disk \".\" is a directory"]);
    folder.refused(
        &["--disk", "/dev/zero"],
        &["\"/dev/zero\" is a character device", "block device"],
    );
    // The second can be opened for writing by everybody.
    for disk in ["/proc/version,readonly", "/proc/self/comm"] {
        let words = ["is a file without a length", "a raw image"];
        folder.refused(&["--disk", disk], &words);
    }
    folder.refused(
        &["--disk", "/sys/kernel/uevent_seqnum,readonly,format=raw"],
        &["is a file that ends before its length"],
    );
    folder.refused(&["--disk", "empty"], &["disk \"empty\" is empty"]);
    folder.refused(
        &["--disk", "odd"],
        &["\"odd\" has 1000 bytes", "multiple of 512", "-s 1024"],
    );
    folder.refused(
        &["--disk", "odd,block-size=4096"],
        &["multiple of 4096", "-s 4096"],
    );
    folder.refused(
        &["--disk", "good,ro"],
        &["\"ro\"", "readonly[=on|off], serial=TEXT"],
    );
    folder.refused(
        &["--disk", "good,serial=123456789012345678901"],
        &["has 21 bytes, at most 20"],
    );
    folder.refused(
        &["--disk", "good", "--disk", "./good"],
        &["\"good\" and \"./good\" are the same file"],
    );
    // More than the slots of QEMU's board, and of Hartvisor's.
    for (most, accel, whose) in [
        (5, "--accel=qemu", "QEMU's 8"),
        (26, "--accel=kvm", "the board's 29"),
    ] {
        let mut many = ["--disk", "good,readonly"].repeat(most + 1);
        many.push(accel);
        let limit = format!("{} disks, at most {most} fit: of {whose}", most + 1);
        folder.refused(&many, &[&limit, "--no-rng", "--no-power-key"]);
        many.extend(["--disk", "good,readonly"].repeat(2));
        many.extend(["--no-rng", "--no-power-key"]);
        let limit = format!("{} disks, at most {}", most + 3, most + 2);
        folder.refused(&many, &[&limit, "the console takes one"]);
    }
}

/// A guest's writes to its raw disk must not turn it into another disk at the next start.
#[test]
fn a_disk_that_looks_like_another_format_is_refused_until_its_format_is_given() {
    let folder = Folder::new();
    for (format, offset, mark) in [
        ("qcow2", 0, &b"QFI\xfb"[..]),
        ("vmdk", 0, b"KDMV"),
        ("vhdx", 0, b"vhdxfile"),
        ("vhd", 0, b"conectix"),
        ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ] {
        let mut content = vec![0; offset];
        content.extend(mark);
        content.resize(4096, 0);
        folder.file("image", &content);
        folder.refused(
            &["--disk", "image,readonly"],
            &[
                "\"image\" is a",
                format,
                "by its first bytes",
                "qemu-img convert",
                "format=raw",
            ],
        );
        let raw = ["--kernel", "kernel", "--disk", "image,format=raw"];
        let output = folder.run(&[&raw[..], &["--print-command"]].concat());
        assert!(output.status.success(), "{output:?}");
    }
}

/// tests/qcow2.rs creates complete images.
#[test]
fn a_qcow2_image_is_opened_where_this_build_can_and_else_it_says_which_can() {
    let folder = Folder::new();
    let image = [&b"QFI\xfb"[..], &[0; 4092]].concat();
    for name in ["image", "image.qcow2"] {
        folder.file(name, &image);
    }
    folder.file("raw", &[0; 4096]);
    folder.file("raw.QCOW2", &[0; 4096]);
    let (damaged, raw, unable) = (
        "cannot be used as a qcow2 image (a raw one needs format=raw): its version is 0",
        "cannot be used as a qcow2 image (a raw one needs format=raw): it is not a qcow2 image",
        "a build with the feature qcow2 opens one",
    );
    for (disk, with, without) in [
        ("image", "format=qcow2 opens it as one", unable),
        ("image,format=qcow2", damaged, unable),
        ("image.qcow2", damaged, unable),
        ("raw,format=qcow2", raw, unable),
        ("raw.QCOW2", raw, unable),
    ] {
        let words = match cfg!(feature = "qcow2") {
            true => [with],
            false => [without],
        };
        folder.refused(&["--disk", disk], &words);
    }
    let raw = ["--kernel", "kernel", "--print-command", "--disk"];
    let output = folder.run(&[&raw[..], &["raw.QCOW2,format=raw"]].concat());
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn direct_io_is_asked_for_where_the_file_has_it() {
    let folder = Folder::new();
    let image = File::create(folder.path("image")).unwrap();
    image.set_len(1 << 20).unwrap();
    let disk = "image,direct=on,cache=writethrough,queues=2,block-size=4096,lock=off";
    let arguments = ["--kernel", "kernel", "--print-command", "--disk", disk];
    let expected: [(&str, &[&str]); 2] = [
        (
            "qemu",
            &[
                "cache.direct=on,",
                "file.locking=off,",
                ",logical_block_size=4096,physical_block_size=4096,write-cache=off,num-queues=2 ",
            ],
        ),
        (
            "ours",
            &[
                "block,path=image,cache=writethrough,direct=on,queues=2,block-size=4096,lock=off &\n",
                ",num-queues=2,",
            ],
        ),
    ];
    for (devices, parts) in expected {
        let output = folder.run(&[&arguments[..], &["--devices", devices]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            // Not every file system supports it.
            expect(&output, 2, &["\"image\" does not support direct I/O"]);
            continue;
        }
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
}

#[test]
fn a_disk_that_may_only_be_read_says_how_to_do_that() {
    let folder = Folder::new();
    File::create(folder.path("disk"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::set_permissions(folder.path("disk"), PermissionsExt::from_mode(0o444)).unwrap();
    let output = as_nobody(&folder, &["--disk", "disk"]);
    expect(
        &output,
        2,
        &[
            "disk \"disk\" for writing",
            "\"disk\",readonly",
            "Permission denied",
        ],
    );
    fs::set_permissions(folder.path("disk"), PermissionsExt::from_mode(0o000)).unwrap();
    // Giving up write access does not help here.
    for disk in ["disk,readonly", "disk"] {
        let output = as_nobody(&folder, &["--disk", disk]);
        expect(
            &output,
            2,
            &["cannot open disk \"disk\": Permission denied"],
        );
    }
}

/// Root can open everything, so as root this needs another user, and a program in a directory that
/// this user can access.
fn as_nobody(folder: &Folder, arguments: &[&str]) -> Output {
    let program = folder.path("hartvisor");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_hartvisor"), &program).unwrap();
        fs::set_permissions(folder.root(), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&program);
    command
        .current_dir(folder.root())
        .args(["run", "--kernel", "kernel", "--accel", "qemu"])
        .args(arguments);
    command.env("HARTVISOR_QEMU", "no-such-qemu");
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    retry_busy(|| command.output()).unwrap()
}

/// A newly written program may be "busy" while a child of another test still has our descriptors.
fn retry_busy(mut start: impl FnMut() -> io::Result<Output>) -> io::Result<Output> {
    loop {
        match start() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

#[test]
fn a_command_line_too_long_is_refused_with_the_limit() {
    let folder = Folder::new();
    folder.refused(
        &["--cmdline", &"x".repeat(4096)],
        &["--cmdline has 4096 bytes, at most 4095"],
    );
    folder.file("image", &image(0x20_0000, 0x10_0000, 4096));
    let output = folder.run(&["--kernel", "image", "--cmdline", &"x".repeat(1024)]);
    expect(
        &output,
        2,
        &["--cmdline has 1024 bytes, at most 1023", "Linux"],
    );
}

#[test]
fn an_initrd_that_is_none_is_refused() {
    let folder = Folder::new();
    folder.file("empty", b"");
    folder.refused(
        &["--initrd", "absent"],
        &["initrd \"absent\"", "No such file"],
    );
    folder.refused(&["--initrd", "."], &["initrd \".\" is a directory"]);
    folder.refused(&["--initrd", "empty"], &["initrd \"empty\" is empty"]);
}

#[test]
fn a_device_tree_that_is_none_is_refused() {
    let folder = Folder::new();
    folder.file("empty", b"");
    folder.file("source", b"/dts-v1/;\n/ { };\n");
    folder.file("cut", &[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 1, 0, 0]);
    folder.refused(
        &["--dtb", "absent"],
        &["cannot open device tree \"absent\"", "No such file"],
    );
    folder.refused(&["--dtb", "."], &["device tree \".\" is a directory"]);
    folder.refused(&["--dtb", "empty"], &["device tree \"empty\" is empty"]);
    folder.refused(&["--dtb", "source"], &["\"source\"", "dtc -O dtb"]);
    folder.refused(&["--dtb", "kernel"], &["\"kernel\"", "expected a DTB"]);
    folder.refused(
        &["--dtb", "cut"],
        &["is truncated: its header says 256 bytes, the file has 9"],
    );
    folder.refused(
        &["--dump-dtb", "a", "--print-command"],
        &["--dump-dtb", "cannot be used with", "--print-command"],
    );
}

#[test]
fn a_configuration_that_is_none_is_refused() {
    let folder = Folder::new();
    let config = |content: &str, parts: &[&str]| {
        folder.file("vm.toml", content.as_bytes());
        expect(&folder.run(&["--config", "vm.toml"]), 2, parts);
    };
    config(
        "kernel = 'kernel'\nmemroy = '1G'",
        &["config \"vm.toml\": unknown key \"memroy\", known are kernel, firmware, initrd"],
    );
    config(
        "kernel = 'kernel'\nmemory = 'much'",
        &["config \"vm.toml\": invalid value 'much'", "--memory"],
    );
    config(
        "kernel = 'kernel'\ncpus =",
        &["config \"vm.toml\": as TOML", "line 2"],
    );
    config("cpus = 2", &["nothing to start: --kernel FILE"]);
    // A value that has the form of an option but is invalid is rejected as on the command line.
    config("kernel = 'absent'", &["cannot open kernel \"absent\""]);
    config("kernel = 'kernel'\ncpus = 0", &["--cpus 0", "1 to 512"]);
    expect(
        &folder.run(&["--config", "absent"]),
        2,
        &["cannot open config \"absent\"", "No such file"],
    );
    expect(
        &folder.run(&["--config", "."]),
        2,
        &["config \".\" is a directory", "a regular file"],
    );
}

#[test]
fn a_pidfile_that_cannot_be_is_refused_before_anything_starts() {
    let folder = Folder::new();
    let refused = |option: &str, parts: &[&str]| {
        folder.refused(&["--accel", "qemu", "--pidfile", option], parts);
    };
    refused(
        "absent/pid",
        &[
            "cannot write the process id to \"absent/pid\"",
            "No such file",
        ],
    );
    refused(".", &["pidfile \".\" is a directory"]);
    refused(
        "/dev/null",
        &["pidfile \"/dev/null\" is a character device"],
    );
    refused(
        "kernel",
        &["pidfile \"kernel\": its content is not a process ID"],
    );
    // The checks come first, so a run that fails later leaves no pidfile behind.
    let late = ["--kernel", "kernel", "--accel", "qemu", "--pidfile", "pid"];
    expect(&folder.run(&late), 3, &["no-such-qemu"]);
    assert!(folder.path("kernel").exists() && !folder.path("pid").exists());
}

#[test]
fn without_qemu_the_package_is_named_and_the_status_is_3() {
    let folder = Folder::new();
    let output = folder.run(&["--kernel", "kernel", "--accel", "qemu"]);
    expect(
        &output,
        3,
        &["no-such-qemu", "qemu-system-riscv", "HARTVISOR_QEMU"],
    );
}

#[test]
fn a_program_that_is_no_qemu_is_our_failure() {
    let folder = Folder::new();
    let run = |qemu: &str| {
        let mut command = folder.command();
        command.env("HARTVISOR_QEMU", qemu);
        output(command.args(["run", "--kernel", "kernel", "--accel", "qemu"]))
    };
    expect(&run("false"), 4, &["false failed with exit status: 1"]);
    expect(&run("/"), 4, &["cannot start /"]);
}

#[test]
fn a_qemu_without_vhost_user_brings_its_own_devices() {
    let folder = Folder::new();
    folder.file("disk", &[0; 4096]);
    let script = "#!/bin/sh
        case \"$*\" in
            '-device help') echo 'name \"virtio-blk-device\"' ;;
            *vhost-user*) exit 1 ;;
            *) echo \"$*\" >started; exit 3 ;;
        esac";
    let qemu = folder.file("qemu", script.as_bytes());
    fs::set_permissions(&qemu, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = folder.command();
    command
        .env("HARTVISOR_QEMU", &qemu)
        .args(["run", "--accel"]);
    command.args(["qemu", "--kernel", "kernel", "--disk", "disk"]);
    let output = output(&command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    let (warning, end) = text.split_once('\n').unwrap();
    assert!(warning.contains("has no vhost-user"), "{text}");
    assert!(end.contains("failed with exit status: 3"), "{text}");
    let started = fs::read_to_string(folder.path("started")).unwrap();
    assert!(started.contains("virtio-blk-device,drive=disk0"), "{text}");
}

#[cfg(not(target_arch = "riscv64"))]
#[test]
fn with_neither_kvm_nor_qemu_one_line_says_why() {
    let output = Folder::new().run(&["--kernel", "kernel"]);
    let parts = [
        "nothing here can run the guest",
        "this machine is",
        "no-such-qemu",
        "apt-get",
    ];
    expect(&output, 3, &parts);
}

#[cfg(not(target_arch = "riscv64"))]
#[test]
fn kvm_of_another_architecture_is_no_kvm_for_us() {
    let folder = Folder::new();
    let output = folder.run(&["--kernel", "kernel", "--accel", "kvm"]);
    expect(
        &output,
        3,
        &["KVM here cannot run RISC-V guests", std::env::consts::ARCH],
    );
}

#[test]
fn firmware_is_not_overwritten_under_qemu() {
    let folder = Folder::new();
    folder.file("low", &Elf::new(0x8000_0000, &shutdown(0)).bytes());
    let output = folder.run(&["--kernel", "low", "--accel", "qemu"]);
    expect(
        &output,
        2,
        &["\"low\" begins at 0x80000000", "OpenSBI", "--accel kvm"],
    );
}

#[test]
fn usage_errors_are_one_line() {
    let folder = Folder::new();
    folder.refused(
        &["--timeout", "5"],
        &["'--timeout'", "hartvisor run --help"],
    );
    folder.refused(&["--accel", "xen"], &["'xen'", "auto, kvm, qemu"]);
    folder.refused(
        &["--accel", "kvm", "--print-command"],
        &["--print-command", "--accel kvm"],
    );
    folder.refused(
        &["--accel", "kvm", "--devices", "qemu"],
        &["--devices qemu", "--accel kvm"],
    );
    expect(
        &output(&folder.command()),
        2,
        &["run, vhost-user, compare, trace, rings or check"],
    );
    expect(&output(folder.command().arg("start")), 2, &["'start'"]);
    let mut command = folder.command();
    let output = output(command.env("HARTVISOR_LOG", "loud").arg("check"));
    expect(&output, 2, &["HARTVISOR_LOG is \"loud\"", "debug"]);
}

#[test]
fn what_is_no_trace_and_no_rings_is_refused() {
    let folder = Folder::new();
    folder.file("text", b"no JSON");
    folder.file("empty", b"[]");
    let say = |arguments: &[&str]| output(folder.command().args(arguments));
    expect(
        &say(&["trace", "show", "missing"]),
        2,
        &["cannot open trace \"missing\""],
    );
    expect(
        &say(&["trace", "show", "text"]),
        2,
        &["trace \"text\": it is not a trace written by run --trace"],
    );
    expect(
        &say(&["rings", "text"]),
        2,
        &["rings \"text\": it is not a recording written by run --rings"],
    );
    expect(&say(&["rings", "empty"]), 2, &["no such queue"]);
    expect(&say(&["trace"]), 2, &["hartvisor"]);
}

#[test]
fn where_statistics_trace_and_rings_cannot_be_written_nothing_starts() {
    let folder = Folder::new();
    for option in ["--stats", "--trace", "--rings"] {
        folder.refused(
            &[option, "no/such/folder", "--accel", "qemu"],
            &["cannot write", "\"no/such/folder\""],
        );
    }
    for option in ["--trace", "--rings"] {
        folder.refused(
            &[option, "-", "--accel", "qemu"],
            &[option, "expected a file"],
        );
    }
}

#[test]
fn help_and_version_are_printed_to_stdout() {
    let folder = Folder::new();
    for (arguments, part) in [
        (&["--help"][..], "Exit status:"),
        (&["run", "--help"], "Ctrl-a x quits"),
        (&["vhost-user", "--help"], "memory-backend-memfd"),
        (&["--version"], "hartvisor 0."),
    ] {
        let output = output(folder.command().args(arguments));
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        assert!(
            String::from_utf8(output.stdout).unwrap().contains(part),
            "{part}"
        );
    }
}

#[test]
fn the_printed_command_names_everything_and_starts_nothing() {
    let folder = Folder::new();
    File::create(folder.path("a,b.img"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    File::create(folder.path("c.img"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    folder.file("initrd", b"070701");
    let arguments = "--kernel kernel --initrd initrd --cpus 3 --memory 1.5G,hugepages=on,prealloc --disk a,,b.img,serial=one --disk c.img,readonly --print-command";
    let print = |devices: &str| {
        let mut all: Vec<&str> = arguments.split(' ').collect();
        all.extend(["--cmdline", "a 'b' c", "--devices", devices]);
        let output = folder.run(&all);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = print("ours");
    let program = env!("CARGO_BIN_EXE_hartvisor");
    for part in [
        &format!(
            "{program} vhost-user \\\n  --once \\\n  --socket hartvisor-disk0.sock \\\n  --device block,path=a,,b.img,serial=one,queues=3 &\n"
        ),
        "--device block,path=c.img,readonly,queues=3 &\n",
        "--device rng &\nwhile [ ! -S hartvisor-disk0.sock ] || [ ! -S hartvisor-disk1.sock ] || [ ! -S hartvisor-rng.sock ]; do sleep 0.1; done\nno-such-qemu \\\n",
        "-object memory-backend-memfd,id=ram,size=1536M,share=on,seal=on,hugetlb=on,hugetlbsize=2M,prealloc=on ",
        "-machine virt,memory-backend=ram ",
        "-chardev socket,id=disk0,path=hartvisor-disk0.sock \\\n  -device vhost-user-blk,chardev=disk0,queue-size=256,num-queues=3,bus=virtio-mmio-bus.2 ",
        "-device vhost-user-rng,chardev=rng,bus=virtio-mmio-bus.3 \\\n",
        "-device virtio-keyboard-device,id=power-key,bus=virtio-mmio-bus.4\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let text = print("qemu");
    assert!(!text.contains("vhost-user"), "{text}");
    for part in [
        "no-such-qemu \\\n",
        "-smp 3 ",
        "-m 1536M ",
        "-kernel kernel ",
        "-initrd initrd ",
        "-append 'a '\\''b'\\'' c' ",
        "virtio-mmio.force-legacy=false",
        "read-only=off,discard=unmap,file.driver=file,file.filename=a,,b.img \\\n  -device virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.2,serial=one,num-queues=3 ",
        "read-only=on,discard=unmap,file.driver=file,file.filename=c.img \\\n  -device virtio-blk-device,drive=disk1,bus=virtio-mmio-bus.1,num-queues=3 \\\n",
        "-device virtio-rng-device,rng=rng,bus=virtio-mmio-bus.3 \\\n",
        "-device virtio-keyboard-device,id=power-key,bus=virtio-mmio-bus.4\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn consoles_that_cannot_be_are_refused() {
    let folder = Folder::new();
    let expected = "stdio, pty, file:PATH, socket:PATH or null";
    for option in ["--console", "--serial"] {
        folder.refused(&[option, "tty"], &[option, "'tty'", expected]);
        folder.refused(&[option, ""], &[option, expected]);
        folder.refused(&[option, "file:"], &[option, "path is missing"]);
        folder.refused(&[option, "file:."], &[option, "\".\" is a directory"]);
        folder.refused(
            &[option, "file:no/log"],
            &[option, "\"no/log\"", "No such file"],
        );
        folder.refused(
            &[option, "socket:kernel"],
            &[option, "\"kernel\" is a regular file"],
        );
        let long = format!("socket:{}", "x".repeat(108));
        folder.refused(&[option, &long], &[option, "has 108 bytes, at most 107"]);
    }
    let both = ["--console", "file:log", "--serial", "file:log"];
    folder.refused(&both, &["are both file:log", "each its own"]);
    assert!(!folder.path("log").exists());
}

#[test]
fn ports_that_cannot_be_are_refused() {
    let folder = Folder::new();
    folder.refused(
        &["--port", "name=a,target=stdio"],
        &["--port", "expected name=NAME,target=pty"],
    );
    folder.refused(
        &["--port", "name=a,target=file:no/log"],
        &["--port", "\"no/log\"", "No such file"],
    );
    let twice = |second| ["--port", "name=a,target=file:log", "--port", second];
    folder.refused(&twice("name=a,target=null"), &["two ports", "\"a\""]);
    folder.refused(
        &twice("name=b,target=file:log"),
        &["--port a and --port b are both file:log"],
    );
    let console = ["--console", "file:log", "--port", "name=a,target=file:log"];
    folder.refused(&console, &["--console and --port a are both file:log"]);
    let many: Vec<String> = (0..31)
        .flat_map(|n| ["--port".to_owned(), format!("name=p{n},target=null")])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    folder.refused(&many, &["31 times", "at most 30"]);
}

#[test]
fn a_socket_of_somebody_else_is_not_taken() {
    let folder = Folder::new();
    let _theirs = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    folder.refused(
        &["--console", "socket:socket"],
        &[
            "--console",
            "a process already listens on socket \"socket\"",
        ],
    );
}

#[test]
fn the_printed_command_has_the_consoles_and_what_a_reboot_does() {
    let folder = Folder::new();
    let run = |arguments: &str| {
        let all = format!("--kernel kernel --print-command {arguments}");
        let output = folder.run(&all.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run("--console pty --serial file:a,b --no-rng --no-power-key --no-reboot");
    for part in [
        "-chardev pty,id=console ",
        "-chardev file,id=serial,path=a,,b ",
        "-serial chardev:serial ",
        "virtconsole,chardev=console\n",
        "-no-reboot ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(
        !text.contains("virtio-rng") && !text.contains("keyboard"),
        "{text}"
    );
    let text = run("--port name=org.a,target=pty --port target=socket:s,name=b,,c");
    for part in [
        "-chardev pty,id=port0 ",
        "-device virtserialport,chardev=port0,name=org.a ",
        "-chardev socket,server=on,wait=off,id=port1,path=s ",
        "-device virtserialport,chardev=port1,name=b,,c ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let text = run("--console socket:s --serial null");
    for part in [
        "-chardev socket,server=on,wait=off,id=console,path=s ",
        "-chardev null,id=serial ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("-no-reboot"), "{text}");
}

#[test]
fn a_closed_stdout_is_an_error_of_ours_and_no_panic() {
    let folder = Folder::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = folder
        .command()
        .args(["run", "--kernel", "kernel", "--print-command"])
        .stdout(full)
        .output()
        .unwrap();
    expect(&output, 4, &["cannot write to stdout", "No space left"]);
}

#[test]
fn check_tells_what_auto_would_take() {
    let output = output(Folder::new().command().arg("check"));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = if text.contains("none: guests cannot run here") {
        3
    } else {
        0
    };
    assert_eq!(output.status.code(), Some(expected), "{text}");
    assert!(
        text.contains("no-such-qemu") && text.contains("--accel auto"),
        "{text}"
    );
}
