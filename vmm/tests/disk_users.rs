//! Disks that this host or another machine already uses, under any name. In the emulated RISC-V KVM
//! host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

mod support;

use support::lab::{self, guest, hartvisor, run, text};

/// Runs in the host. A guest that powers off at once shows that the disk can be used.
const SCRIPT: &str = r#"
run="$hartvisor run --accel kvm --no-reboot --kernel $guest"
# try NAME DISK...: what becomes of a run with these disks
try() {
    name=$1; shift; disks=
    for disk in "$@"; do disks="$disks --disk $disk"; done
    said=$($run --cmdline poweroff $disks </dev/null 2>&1); echo "$name=$? $said"
}
cd /tmp; mkdir m
modprobe loop max_part=7; modprobe crc32c_generic; modprobe ext4
truncate -s 4M image used shared
mount_image() { mount -t ext4 /dev/loop0 m || echo "cannot mount"; }

losetup /dev/loop0 image; mke2fs -F /dev/loop0 >/dev/null 2>&1; mount_image
try mounted /dev/loop0
try mounted-reader /dev/loop0,readonly
mknod node b 7 0; try node node
try backing image
try lock-off image,lock=off
mount -o remount,ro m
try mounted-ro /dev/loop0
try mounted-ro-reader /dev/loop0,readonly
mount -o remount,rw m
dd if=/dev/zero of=m/swap bs=64K count=8 2>/dev/null; chmod 600 m/swap; mkswap m/swap >/dev/null; swapon m/swap
try swap-file m/swap
try swap-file-reader m/swap,readonly
swapoff m/swap; umount m
mkswap /dev/loop0 >/dev/null; swapon /dev/loop0
try swap /dev/loop0,readonly
swapoff /dev/loop0
blockdev --setro /dev/loop0
try set-read-only /dev/loop0
try set-read-only-reader /dev/loop0,readonly
try backing-reader image,readonly
blockdev --setrw /dev/loop0
try free /dev/loop0

cp $parted parted; losetup /dev/loop1 parted; losetup /dev/loop3 shared
try both-at-once /dev/loop1 /dev/loop1p1
$run --cmdline echo --console file:out --serial null --disk /dev/loop1p1 --disk used --disk /dev/loop3,readonly & vm=$!
until grep -q 'what you type' out 2>/dev/null || ! kill -0 $vm; do sleep 0.1; done
losetup /dev/loop2 used
try part /dev/loop1p1
try whole /dev/loop1
try sibling /dev/loop1p2
try loop-over-used /dev/loop2
try used-lock-off /dev/loop2,lock=off
try reader /dev/loop3,readonly
try writer /dev/loop3
mount -t ext4 /dev/loop1p1 m 2>/dev/null || echo "claimed=0"
kill $vm; wait $vm
try part-again /dev/loop1p1
"#;

#[test]
fn what_somebody_else_uses_is_refused_with_who_that_is() {
    let folder = tempfile::tempdir().unwrap();
    // Two partitions of 1 MiB in a master boot record.
    let mut parted = vec![0; 4 << 20];
    for (at, start) in [(446, 2048_u32), (462, 4096)] {
        parted[at + 4] = 0x83;
        parted[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        parted[at + 12..at + 16].copy_from_slice(&2048_u32.to_le_bytes());
    }
    parted[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = folder.path().join("parted");
    fs::write(&path, parted).unwrap();
    let script = format!(
        "hartvisor={} guest={} parted={}\n{SCRIPT}",
        hartvisor().display(),
        guest().display(),
        path.display()
    );
    let mut host = lab::lab(&[], &[folder.path()]);
    let text = text(&run(host.args(["sh", "-c", &script]), b""));
    for (name, said) in [
        (
            "mounted",
            "2 hartvisor: disk \"/dev/loop0\" is in use: /dev/loop0 is mounted at /tmp/m",
        ),
        (
            "mounted-reader",
            "2 hartvisor: disk \"/dev/loop0\" is in use: /dev/loop0 is mounted",
        ),
        (
            "node",
            "2 hartvisor: disk \"node\" is in use: /dev/loop0 is mounted at /tmp/m",
        ),
        (
            "backing",
            "2 hartvisor: disk \"image\" is in use: loop device /dev/loop0 uses it",
        ),
        ("lock-off", "0"),
        (
            "mounted-ro",
            "2 hartvisor: disk \"/dev/loop0\" is in use: /dev/loop0 is mounted",
        ),
        ("mounted-ro-reader", "0"),
        (
            "swap-file",
            "2 hartvisor: disk \"m/swap\" is not writable: it is swap space of this",
        ),
        (
            "swap-file-reader",
            "2 hartvisor: disk \"m/swap\" is in use: /tmp/m/swap is swap space",
        ),
        (
            "swap",
            "2 hartvisor: disk \"/dev/loop0\" is in use: /dev/loop0 is swap space",
        ),
        (
            "set-read-only",
            "2 hartvisor: disk \"/dev/loop0\" is not writable: it is set read-only",
        ),
        ("set-read-only-reader", "0"),
        ("backing-reader", "0"),
        ("free", "0"),
        (
            "both-at-once",
            "2 hartvisor: disks \"/dev/loop1\" and \"/dev/loop1p1\" are the same",
        ),
        (
            "part",
            "2 hartvisor: disk \"/dev/loop1p1\" is in use: hartvisor (process ",
        ),
        (
            "whole",
            "2 hartvisor: disk \"/dev/loop1\" is in use: hartvisor (process ",
        ),
        ("sibling", "0"),
        (
            "loop-over-used",
            "2 hartvisor: another machine has disk \"/dev/loop2\", hartvisor (process ",
        ),
        ("used-lock-off", "0"),
        ("reader", "0"),
        (
            "writer",
            "2 hartvisor: another machine has disk \"/dev/loop3\", hartvisor (process ",
        ),
        ("claimed", "0"),
        ("part-again", "0"),
    ] {
        let line = text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_end())
        });
        let line = line.unwrap_or_default();
        assert!(
            line.starts_with(said) && (said != "0" || line == "0"),
            "{name}: {text}"
        );
    }
}
