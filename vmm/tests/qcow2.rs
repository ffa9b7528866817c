//! A qcow2 image under Linux on RISC-V KVM, created and checked with qemu-img: it contains what the
//! guest wrote, and is consistent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::Command;

mod support;

use support::lab::{self, cached, run, text};
use support::linux::{at_console, initramfs, succeed};

/// The guest's /init. Its disks: an image with data, a new one, a read-only one, one with a
/// backing file.
const INIT: &str = r#"for disk in vda vdb vdc vdd; do echo "size=$(cat /sys/block/$disk/size)"; done
echo "sum=$(dd if=/dev/vda bs=1M 2>/dev/null | sha256sum)"
# Copied completely, then 2 MiB of it discarded.
dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo "sum=$(dd if=/dev/vdb bs=1M 2>/dev/null | sha256sum)"
blkdiscard -o 2097152 -l 2097152 /dev/vdb && echo "discarded=vdb"
echo "sum=$(dd if=/dev/vdd bs=1M 2>/dev/null | sha256sum)"
for disk in vda vdd; do dd if=/dev/vda of=/dev/$disk bs=1M count=1 seek=7 conv=notrunc,fsync 2>/dev/null; done
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda of=/dev/vdc bs=512 count=1 conv=fsync 2>/dev/null || echo "refused=vdc"
echo "sum=$(dd if=/dev/vdc bs=1M 2>/dev/null | sha256sum)"
poweroff -f
"#;

fn qemu_img(arguments: &[&str], images: &[&Path]) -> String {
    succeed(Command::new("qemu-img").args(arguments).args(images))
}

#[test]
fn linux_reads_and_writes_images_that_are_in_order_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Half of it is data, and some of that is compressible.
    let mut content = vec![0_u8; 8 << 20];
    let mut state = 1_u64;
    for (index, byte) in content.iter_mut().enumerate().take(4 << 20) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = if index & 0x2_0000 == 0 {
            state.to_le_bytes()[7]
        } else {
            7
        };
    }
    fs::write(at("raw"), &content).unwrap();
    let (raw, full, new, packed) = (at("raw"), at("full.qcow2"), at("new"), at("packed.qcow2"));
    let over = at("over");
    qemu_img(&["convert", "-O", "qcow2"], &[&raw, &full]);
    qemu_img(&["convert", "-c", "-O", "qcow2"], &[&raw, &packed]);
    qemu_img(
        &["create", "-q", "-f", "qcow2", new.to_str().unwrap(), "8M"],
        &[],
    );
    let below = ["-b", "packed.qcow2", "-F", "qcow2"];
    qemu_img(
        &[&["create", "-q", "-f", "qcow2"][..], &below].concat(),
        &[&over],
    );

    let initramfs = initramfs(
        folder.path(),
        "host",
        &format!("{}{INIT}", at_console("vdc")),
    );
    let mut host = lab::lab(&["--cpus", "2"], &[folder.path()]);
    host.arg(lab::hartvisor())
        .args([
            "run",
            "--accel",
            "kvm",
            "--no-reboot",
            "--cmdline",
            "console=hvc0",
        ])
        .arg("--kernel")
        .arg(cached("host", "vmlinux"))
        .arg("--initrd")
        .arg(initramfs);
    for (image, keys) in [
        (&full, ""),
        (&new, ",format=qcow2"),
        (&packed, ",readonly"),
        (&over, ",format=qcow2,backing=on"),
    ] {
        host.arg("--disk").arg(format!("{}{keys}", image.display()));
    }
    let text = text(&run(&mut host, b""));
    let values = |name: &str| -> Vec<&str> {
        let after = |part| str::strip_prefix(part, name);
        text.split_whitespace().filter_map(after).collect()
    };
    assert_eq!(values("size="), ["16384"; 4], "{text}");
    let sums = values("sum=");
    assert_eq!(sums, [sums[0]; 4], "{text}");
    assert_eq!(values("discarded="), ["vdb"], "{text}");
    assert_eq!(values("refused="), ["vdc"], "{text}");

    for image in [&full, &new, &packed, &over] {
        qemu_img(&["check", "-q"], &[image]);
    }
    // Compares every byte with a second implementation.
    let compare = |image: &Path, expected: &[u8]| {
        fs::write(at("expected"), expected).unwrap();
        qemu_img(&["compare", "-q"], &[image, &at("expected")]);
    };
    compare(&packed, &content);
    let mut written = content.clone();
    written.copy_within(0..1 << 20, 7 << 20);
    compare(&full, &written);
    compare(&over, &written);
    content[2 << 20..4 << 20].fill(0);
    compare(&new, &content);
}
