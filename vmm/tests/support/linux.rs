//! The parts of a Linux guest: an initramfs of busybox and modules, a disk, and a check of the disk
//! afterwards.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::lab::{cached, host_file};

/// The start of every guest's /init.
const BEGIN: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
modprobe virtio_mmio; modprobe virtio_blk; modprobe crc32c_generic; modprobe ext4
";

/// The next part of an /init that uses hvc0 and a disk: waits for both and disables echo.
pub const AT_CONSOLE: &str = "while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
";

/// The same for a guest whose last disk is `disk`, such as vdc.
pub fn at_console(disk: &str) -> String {
    AT_CONSOLE.replace("vda", disk)
}

/// Creates an initramfs of busybox, the modules of the downloaded kernel of this name, and an /init
/// that mounts the usual file systems and continues with `script`.
pub fn initramfs(folder: &Path, kernel: &str, script: &str) -> PathBuf {
    let root = folder.join("root");
    let release = fs::read_to_string(cached(kernel, "release")).unwrap();
    let modules = root.join("lib/modules").join(release.trim());
    for folder in ["bin", "dev"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(&modules).unwrap();
    fs::copy(host_file("busybox"), root.join("bin/busybox")).unwrap();
    for module in fs::read_dir(cached(kernel, "modules")).unwrap() {
        let module = module.unwrap();
        fs::copy(module.path(), modules.join(module.file_name())).unwrap();
    }
    fs::write(root.join("init"), format!("{BEGIN}{script}")).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = folder.join("initramfs.cpio");
    let pack = "find . -mindepth 1 | cpio --create --format=newc --owner=0:0 --quiet";
    let mut command = Command::new("sh");
    command
        .args(["-c", pack])
        .current_dir(&root)
        .stdout(File::create(&archive).unwrap());
    assert!(command.status().unwrap().success());
    archive
}

/// Builds a C program for the emulated host.
pub fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&source, text).unwrap();
    // The cross linker installed by the set-up is a compiler.
    let mut cc = Command::new("riscv64-linux-gnu-gcc");
    succeed(cc.arg("-static").arg("-o").arg(&program).arg(&source));
    program
}

/// Returns Debian's version of a downloaded kernel, such as 6.12.
pub fn version(kernel: &str) -> String {
    let release = fs::read_to_string(cached(kernel, "release")).unwrap();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Copies the downloaded disk of this name.
pub fn copy_of(name: &str, folder: &Path) -> PathBuf {
    let disk = folder.join("disk");
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto"]);
    succeed(copy.arg(cached(name, "disk")).arg(&disk));
    disk
}

/// Creates an empty ext4 file system of 128 MiB.
pub fn ext4(folder: &Path) -> PathBuf {
    let disk = folder.join("disk");
    File::create(&disk).unwrap().set_len(128 << 20).unwrap();
    succeed(Command::new("mkfs.ext4").arg("-q").arg(&disk));
    disk
}

/// Asserts that the file system on a disk is consistent and was unmounted cleanly.
pub fn assert_clean(disk: &Path) {
    succeed(Command::new("e2fsck").arg("-fn").arg(disk));
    // The dumpe2fs of Debian 13 does not understand a name with an offset.
    let mut stats = Command::new("debugfs");
    let state = succeed(stats.args(["-R", "show_super_stats -h"]).arg(disk));
    assert!(
        state.contains("clean") && !state.contains("needs_recovery"),
        "{state}"
    );
}

/// Runs a program, asserts that it succeeds, and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    // mkfs and e2fsck are not on a user's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
