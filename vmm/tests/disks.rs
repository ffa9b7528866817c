//! A disk under Linux on RISC-V KVM: discard, write zeroes, cache disabled, resize, image lock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

mod support;

use support::lab::{self, cached, hartvisor, run, text};
use support::linux::{at_console, initramfs};

/// The guest's /init. Its disks of 64 MiB each: a file, a block device of the host, and a file with
/// direct I/O.
const INIT: &str = r#"cd /sys/block/vda
echo "mq=$(ls mq | wc -l) physical=$(cat queue/physical_block_size) logical=$(cat /sys/block/vdc/queue/logical_block_size)"
echo "segment=$(cat queue/max_segment_size)"
echo "discard=$(cat queue/discard_max_bytes) zeroes=$(cat queue/write_zeroes_max_bytes)"
echo "cache=$(cat cache_type)"
echo "write through" >cache_type; echo "cache=$(cat cache_type)"
echo "write back" >cache_type; echo "cache=$(cat cache_type)"
for disk in vda vdb; do
    # Blocks 16 to 31 of 64, 1 MiB each.
    blkdiscard -o 16777216 -l 16777216 /dev/$disk && echo "discarded=$disk"
    echo 3 >/proc/sys/vm/drop_caches
    echo "zeroes=$(dd if=/dev/$disk bs=1M skip=16 count=16 2>/dev/null | tr -d '\0' | wc -c)"
    echo "sum=$(dd if=/dev/$disk bs=1M count=16 2>/dev/null | sha256sum)"
done
# Page-sized blocks, with O_DIRECT in the guest, too; the checksum goes through the page cache.
dd if=/dev/vda of=/dev/vdc bs=1M count=16 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo "sum=$(dd if=/dev/vdc bs=1M count=16 2>/dev/null | sha256sum)"
# A loop device turns discard into write zeroes on its disk: blocks 4 to 7.
discards() { set -- $(cat /sys/block/vda/stat); echo "${12}"; }
modprobe loop; losetup /dev/loop0 /dev/vda
before=$(discards)
blkdiscard -o 4194304 -l 4194304 /dev/loop0 && echo "discards=$(($(discards) - before))"
losetup -d /dev/loop0
echo 3 >/proc/sys/vm/drop_caches
echo "zeroes=$(dd if=/dev/vda bs=1M skip=4 count=4 2>/dev/null | tr -d '\0' | wc -c)"
for size in 196608 65536; do
    echo "want=$size"
    while [ "$(cat size)" != $size ]; do sleep 0.1; done
    echo "size=$size"
done
dmesg | sed -n 's/.*\(\[vda\] new size\).*/said=\1/p'
poweroff -f
"#;

/// Runs in the emulated host at the same time.
const BESIDE: &str = r#"
cd /tmp
dd if=/dev/urandom of=data bs=1M count=64 2>/dev/null
echo "sum=$(dd if=data bs=1M count=16 2>/dev/null | sha256sum)"
cp data disk; cp data behind; truncate -s 64M direct
modprobe loop; losetup /dev/loop0 behind
blocks() { echo "blocks=$(($(stat -c %b $1) / 2048))"; }
blocks disk; blocks behind
mkfifo in out
$run --disk disk --disk /dev/loop0 --disk direct,direct=on <in >out & vmm=$!
exec 3>in 4<out
while read -r line <&4; do
    echo "$line"
    case $line in
    want=196608*)
        # Meanwhile no other process may use it.
        $run --disk disk </dev/null; echo second=$?
        $run --disk disk,readonly </dev/null; echo second=$?
        truncate -s 96M disk; kill -USR2 $vmm;;
    want=65536*) truncate -s 32M disk; kill -USR2 $vmm;;
    esac
done
wait $vmm; echo status=$?
blocks disk; blocks behind
echo "zeroes=$(dd if=disk bs=1M skip=4 count=4 2>/dev/null | tr -d '\0' | wc -c)"
"#;

/// Returns the values of all lines `name=value`.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let name = format!("{name}=");
    let after = |part: &'a str| part.strip_prefix(&name);
    text.split_whitespace().filter_map(after).collect()
}

#[test]
fn linux_uses_all_that_a_disk_offers() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = initramfs(
        folder.path(),
        "host",
        &format!("{}{INIT}", at_console("vdc")),
    );
    let script = format!(
        "run='{} run --accel kvm --no-reboot --cpus 2 --cmdline console=hvc0 --kernel {} --initrd {}'{BESIDE}",
        hartvisor().display(),
        cached("host", "vmlinux").display(),
        initramfs.display(),
    );
    fs::write(folder.path().join("beside"), script).unwrap();
    let beside = folder.path().join("beside");
    let mut host = lab::lab(&["--cpus", "2"], &[folder.path()]);
    let text = text(&run(host.arg("sh").arg(beside), b""));

    assert_eq!(values(&text, "status"), ["0"], "{text}");
    assert_eq!(values(&text, "mq"), ["2"], "{text}");
    assert_eq!(values(&text, "physical"), ["4096"], "{text}");
    assert_eq!(values(&text, "logical"), ["512"], "{text}");
    assert_eq!(values(&text, "segment"), ["1048576"], "{text}");
    assert_eq!(values(&text, "discard"), [(1 << 30).to_string()], "{text}");
    // The first value is the limit. The others count bytes that are not zero after discard, then
    // after write zeroes: in the guest, and in the file.
    let limit = (32 << 20).to_string();
    let zeroes = [&*limit, "0", "0", "0", "0"];
    assert_eq!(values(&text, "zeroes"), zeroes, "{text}");
    // The guest used WRITE_ZEROES.
    assert_eq!(values(&text, "discards"), ["0"], "{text}");
    assert_eq!(text.matches("cache=write through").count(), 1, "{text}");
    assert_eq!(text.matches("cache=write back").count(), 2, "{text}");
    assert_eq!(values(&text, "discarded"), ["vda", "vdb"], "{text}");
    let sums = values(&text, "sum");
    assert_eq!(sums, [sums[0]; 4], "{text}");
    assert_eq!(values(&text, "size"), ["196608", "65536"], "{text}");
    assert_eq!(values(&text, "said").len(), 2, "{text}");
    assert_eq!(values(&text, "second"), ["2", "2"], "{text}");
    assert!(text.contains("another machine has disk \"disk\""), "{text}");
    // First 64 MiB each. At the end the first disk is without the 16 discarded, 4 zeroed and 32
    // truncated MiB, the second without the 16 discarded MiB.
    assert_eq!(values(&text, "blocks"), ["64", "64", "12", "48"], "{text}");
}
