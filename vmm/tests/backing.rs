//! Backing files of qcow2 images: opened only on request, read-only, and only as what the image
//! says they are.
#![cfg(feature = "qcow2")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::process::Command;

mod support;

use support::folder::Folder;

/// An empty image of 4096 bytes, with the name and the format of its backing file.
fn image(backing: Option<(&str, &str)>) -> Vec<u8> {
    const CLUSTER: usize = 512;
    let be32 = |value: u32| value.to_be_bytes();
    let be64 = |value: usize| (value as u64).to_be_bytes();
    let (name, format) = backing.unwrap_or_default();
    let mut image = [&b"QFI\xfb"[..], &be32(3)].concat();
    image.extend(be64(if backing.is_some() { 256 } else { 0 }));
    image.extend(be32(u32::try_from(name.len()).unwrap()));
    image.extend(be32(9));
    image.extend(be64(4096));
    image.extend([be32(0), be32(1)].concat());
    // L1 table, refcount table, and its length in clusters.
    image.extend([be64(3 * CLUSTER), be64(CLUSTER)].concat());
    image.extend(be32(1));
    image.extend([0; 36]);
    image.extend([be32(4), be32(104)].concat());
    if !format.is_empty() {
        image.extend(be32(0xe279_2aca));
        image.extend(be32(u32::try_from(format.len()).unwrap()));
        image.extend(format.as_bytes());
    }
    image.resize(256, 0);
    image.extend(name.as_bytes());
    image.resize(CLUSTER, 0);
    image.extend(be64(2 * CLUSTER));
    image.resize(2 * CLUSTER, 0);
    // All four clusters are used once.
    image.extend([0, 1].repeat(4));
    image.resize(4 * CLUSTER, 0);
    image
}

#[test]
fn a_backing_file_is_opened_on_request_as_what_the_image_says() {
    let folder = Folder::new();
    fs::create_dir(folder.path("dir")).unwrap();
    folder.file("top", &image(Some(("dir/middle", "qcow2"))));
    // Relative to the image that names it. Its content is not what makes it an image.
    folder.file("dir/middle", &image(Some(("base,x", "raw"))));
    folder.file("dir/base,x", &image(Some(("/etc/passwd", "raw"))));
    let refused = [
        "\"top\" has a backing file, \"dir/middle\"",
        "expected none (backing=on opens it, read-only)",
    ];
    folder.refused(&["--disk", "top,format=qcow2"], &refused);
    folder.refused(&["--disk", "top,format=qcow2,backing=off"], &refused);
    let disk = "top,format=qcow2,backing=on,lock=off";
    let run = [
        "--kernel",
        "kernel",
        "--accel=qemu",
        "--print-command",
        "--disk",
    ];
    let output = folder.run(&[&run[..], &[disk]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let option = "block,path=top,lock=off,format=qcow2,backing=on";
    assert!(text.contains(option), "{text} {output:?}");
    let output = folder.run(&[&run[..], &[disk, "--devices=qemu"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "driver=qcow2,node-name=disk0,read-only=off,discard=unmap,file.locking=off,file.driver=file,\
        file.filename=top,backing.driver=qcow2,backing.read-only=on,backing.file.locking=off,\
        backing.file.driver=file,backing.file.filename=dir/middle,backing.backing.driver=raw,\
        backing.backing.read-only=on,backing.backing.file.locking=off,backing.backing.file.driver=file,\
        backing.backing.file.filename=dir/base,,x";
    assert!(text.contains(expected), "{text} {output:?}");
}

#[test]
fn a_backing_file_that_cannot_be_used_is_refused() {
    let folder = Folder::new();
    let fifo = Command::new("mkfifo").arg(folder.path("fifo")).status();
    assert!(fifo.unwrap().success());
    folder.file("short", b"QFI\xfb");
    for (name, format, words) in [
        (
            "none",
            "raw",
            [
                "\"top\" needs its backing file: cannot open disk",
                "\"none\": No such file",
            ],
        ),
        (
            "fifo",
            "raw",
            ["\"top\" needs its backing file: disk", "\"fifo\" is a pipe"],
        ),
        (
            "/dev/zero",
            "raw",
            [
                "\"/dev/zero\" is a character device",
                "expected a raw image",
            ],
        ),
        (
            "/proc/version",
            "raw",
            ["\"/proc/version\" is a file", "expected a raw image"],
        ),
        (
            "top",
            "qcow2",
            ["\"top\", which is also above it", "a loop"],
        ),
        (
            "short",
            "qcow2",
            ["\"short\" cannot be used as a qcow2 image", "version is 0"],
        ),
        (
            "kernel",
            "qcow2",
            [
                "\"kernel\" cannot be used as a qcow2 image",
                "not a qcow2 image",
            ],
        ),
        (
            "kernel",
            "",
            ["does not state its format", "qemu-img rebase -u -F"],
        ),
        (
            "kernel",
            "vmdk",
            ["of the format \"vmdk\"", "expected \"raw\" or \"qcow2\""],
        ),
        (
            "nbd:localhost",
            "raw",
            ["\"nbd:localhost\"", "expected a file name"],
        ),
        (
            "json:{}",
            "raw",
            [
                "\"json:{}\", which names a protocol",
                "expected a file name",
            ],
        ),
    ] {
        folder.file("top", &image(Some((name, format))));
        folder.refused(&["--disk", "top,format=qcow2,backing=on"], &words);
    }
    folder.refused(
        &["--disk", "kernel,backing=on"],
        &[
            "\"kernel\" is raw",
            "backing=on is for qcow2 images (format=qcow2)",
        ],
    );
}

#[test]
fn a_chain_of_backing_files_has_a_limit() {
    let folder = Folder::new();
    folder.file("0", &[0; 4096]);
    for above in 1..=17 {
        let format = if above == 1 { "raw" } else { "qcow2" };
        folder.file(
            &above.to_string(),
            &image(Some((&(above - 1).to_string(), format))),
        );
    }
    let words = ["\"1\" has a backing file, \"0\", the 17th, expected at most 16"];
    folder.refused(&["--disk", "17,format=qcow2,backing=on"], &words);
    let run = ["--kernel", "kernel", "--print-command", "--disk"];
    let output = folder.run(&[&run[..], &["16,format=qcow2,backing=on"]].concat());
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_backing_file_has_readers_only() {
    let folder = Folder::new();
    folder.file("base", &[0; 4096]);
    for name in ["one", "two"] {
        folder.file(name, &image(Some(("base", "raw"))));
    }
    let disks = ["--disk", "one,format=qcow2,backing=on", "--disk"];
    let words = [
        "\"base\" and \"base\" are the same file",
        "readonly on both",
    ];
    folder.refused(&[&disks[..], &["base"]].concat(), &words);
    let run = ["--kernel", "kernel", "--print-command"];
    for other in ["base,readonly", "two,format=qcow2,backing=on"] {
        let output = folder.run(&[&run[..], &disks, &[other]].concat());
        assert!(output.status.success(), "{output:?}");
    }
    // Read-only, so it need not be writable.
    let readonly = File::open(folder.path("base")).unwrap();
    let mut mode = readonly.metadata().unwrap().permissions();
    mode.set_readonly(true);
    readonly.set_permissions(mode).unwrap();
    let output = folder.run(&[&run[..], &disks[..2]].concat());
    assert!(output.status.success(), "{output:?}");
}
