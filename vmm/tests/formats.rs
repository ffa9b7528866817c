//! Every supported kernel file format, started on RISC-V KVM: the bare-metal guest and Debian's
//! kernel, compressed here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use dtoolkit::fdt::Fdt;

mod support;

use support::lab::{self, guest, hartvisor, host_file, run, text};
use support::linux::{self, initramfs};
use support::packed::{gzip, zboot, zstd};
use support::tested::Row;

/// Starts each kernel in turn in one emulated host, and returns the output and the exit statuses.
fn start_each(kernels: &[String], folder: &Path, arguments: &str) -> (String, Vec<i32>) {
    let mut script = String::new();
    for kernel in kernels {
        let hartvisor = hartvisor();
        script += &format!(
            "{} run --accel kvm --kernel '{kernel}' {arguments} </dev/null; echo status=$?\n",
            hartvisor.display()
        );
    }
    let output = run(lab::lab(&[], &[folder]).args(["sh", "-c", &script]), b"");
    let text = text(&output);
    let status = |line: &str| line.trim().strip_prefix("status=")?.parse().ok();
    let statuses = text.lines().filter_map(status).collect();
    (text, statuses)
}

#[test]
fn the_guest_runs_from_each_compression() {
    let rows = [
        "ELF, gzip",
        "ELF, zstd",
        "ELF, EFI zboot (gzip)",
        "ELF, EFI zboot (zstd)",
    ];
    let _rows = rows.map(|format| Row::begin("our bare-metal guest", format, &[], "auto", "1"));
    let folder = tempfile::tempdir().unwrap();
    let elf = fs::read(guest()).unwrap();
    let packed = [
        gzip(&elf),
        zstd(&elf),
        zboot("gzip", &gzip(&elf)),
        zboot("zstd22", &zstd(&elf)),
    ];
    let write = |(index, bytes): (usize, &Vec<u8>)| {
        let path = folder.path().join(format!("kernel{index}"));
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let kernels: Vec<String> = packed.iter().enumerate().map(write).collect();
    // Only a guest that runs and reads its command line can report this failure.
    let (text, statuses) = start_each(&kernels, folder.path(), "--cmdline no-such-mode");
    assert_eq!(statuses, [1; 4], "{text}");
}

#[test]
fn a_binary_without_a_header_runs_when_it_is_called_raw() {
    let _row = Row::begin("our bare-metal guest", "raw", &[], "auto", "1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw,binary");
    // The guest without its ELF headers.
    let mut objcopy = Command::new("riscv64-linux-gnu-objcopy");
    objcopy.args(["-O", "binary"]).arg(guest()).arg(&path);
    assert!(objcopy.status().unwrap().success());
    let name = path.display().to_string().replace(',', ",,");
    let kernels = [format!("{name},format=raw"), name];
    let (text, statuses) = start_each(&kernels, folder.path(), "--cmdline no-such-mode");
    assert_eq!(statuses, [1, 2], "{text}");
    assert!(text.contains("of an unknown format"), "{text}");
}

/// Writes to the kernel's log and powers off.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
echo formats: init runs >/dev/kmsg
exec /bin/busybox poweroff -f
";

#[test]
fn debians_kernel_boots_from_gzip_and_from_efi_zboot() {
    let name = format!("Linux {} and busybox", linux::version("host"));
    let formats = ["flat Image, gzip", "flat Image, EFI zboot (zstd)"];
    let _rows = formats.map(|format| Row::begin(&name, format, &[], "auto", "1"));
    let folder = tempfile::tempdir().unwrap();
    let image = fs::read(host_file("vmlinux")).unwrap();
    let (first, second) = (
        folder.path().join("Image.gz"),
        folder.path().join("vmlinuz.efi"),
    );
    fs::write(&first, gzip(&image)).unwrap();
    fs::write(&second, zboot("zstd22", &zstd(&image))).unwrap();
    let kernels = [first, second].map(|path| path.display().to_string());
    let arguments = format!(
        "--initrd {} --no-reboot --cmdline 'console=ttyS0 panic=-1'",
        initramfs(folder.path(), "host", INIT).display()
    );
    let (text, statuses) = start_each(&kernels, folder.path(), &arguments);
    assert_eq!(statuses, [0; 2], "{text}");
    assert_eq!(text.matches("formats: init runs").count(), 2, "{text}");
}

#[test]
fn the_device_tree_can_be_had_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let (tree, guest) = (tree.display(), guest());
    let (hartvisor, guest) = (hartvisor(), guest.display());
    let script = format!(
        "{0} run --accel kvm --kernel {guest} --cmdline poweroff --cpus 3 --dump-dtb {tree}; echo status=$?
         read -r line; echo \"stdin: $line\"
         {0} run --accel kvm --kernel {guest} --cpus 3 --dtb {tree} </dev/null; echo status=$?
         {0} run --accel kvm --kernel {guest} --cpus 3 --dtb {tree} --cmdline no-such-mode </dev/null; echo status=$?
         {0} run --accel kvm --kernel {guest} --dump-dtb /no/such/folder/tree; echo status=$?\n",
        hartvisor.display(),
    );
    let output = run(
        lab::lab(&[], &[folder.path()]).args(["sh", "-c", &script]),
        b"not eaten\n",
    );
    let text = text(&output);
    // First a power-off by the bootargs of the device tree, then a failure by those of the command
    // line, then an output file that cannot be written.
    let statuses: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("status="))
        .collect();
    assert_eq!(statuses, ["0", "0", "1", "2"], "{text}");
    assert!(text.contains("stdin: not eaten"), "{text}");
    assert!(text.contains("cannot write the device tree to"), "{text}");
    let tree = fs::read(folder.path().join("tree")).unwrap();
    let fdt = Fdt::new(&tree).unwrap();
    assert!(fdt.find_node("/cpus/cpu@2").is_some() && fdt.find_node("/cpus/cpu@3").is_none());
}
