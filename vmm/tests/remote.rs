//! Devices that other processes serve, in the emulated host: directories by Debian's virtiofsd, and
//! disks by our own back end. net.rs has a card that passt serves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::lab::{self, guest, hartvisor, run, text};
use support::script::{assert_has, debian, said};

/// A directory with 4 MiB, and one that the guest must not change.
const DIRECTORIES: &str = "
mkdir -p /tmp/a /tmp/b
dd if=/dev/urandom of=/tmp/a/data bs=1M count=4 2>/dev/null
echo host: sha $(sha256sum </tmp/a/data)
echo b >/tmp/b/file
";

/// Reboots once, since the back ends stay. Then reads, writes, renames, deletes and links in the first
/// directory, and tries to write to the second.
const MOUNTS: &str = "
exec </dev/hvc0 >/dev/hvc0 2>&1
mkdir /a /b
mount -t virtiofs share0 /a && mount -t virtiofs docs /b || echo guest: no mount
[ -e /a/rebooted ] || { echo yes >/a/rebooted; sync; reboot -f; }
echo guest: sha $(sha256sum </a/data)
cp /a/data /a/copy
mkdir /a/folder
echo text >/a/folder/one
mv /a/folder/one /a/folder/two
ln -s two /a/folder/link
rm /a/data
echo guest: $(cat /b/file)
touch /b/new 2>/dev/null && echo guest: b is writable
grep -c virtiofs /proc/mounts
umount /a
poweroff -f
";

/// What the host has after that.
const AFTER: &str = "
wait $vmm; echo status=$?
echo host: copy $(sha256sum </tmp/a/copy)
echo host: $(ls /tmp/a /tmp/a/folder) $(cat /tmp/a/folder/link)
ls /tmp/b
until ! pidof virtiofsd >/dev/null; do sleep 0.1; done
echo host: nothing is left in $(ls -d /tmp/hartvisor* 2>/dev/null)
";

fn shares(host: &[&str]) {
    let options = "--share /tmp/a --share /tmp/b,tag=docs,readonly";
    let folder = tempfile::tempdir().unwrap();
    let commands = [DIRECTORIES, MOUNTS, AFTER];
    let text = debian(folder.path(), host, options, commands);
    assert_eq!(
        said(&text, "guest: sha "),
        said(&text, "host: sha "),
        "{text}"
    );
    assert_eq!(
        said(&text, "host: copy "),
        said(&text, "host: sha "),
        "{text}"
    );
    assert_has(
        &text,
        &[
            "guest: b",
            "copy folder rebooted",
            "link two text",
            "status=0",
            "host: nothing is left in",
        ],
    );
    assert!(!text.contains("guest: b is writable"), "{text}");
}

#[test]
fn a_guest_reads_and_writes_in_directories_of_the_host() {
    shares(&["--aia"]);
}

/// Our back end serves a disk. It is killed twice while the guest writes; each time another one
/// takes its place.
#[test]
fn a_disk_survives_the_restart_of_its_back_end() {
    let begin = "
        dd if=/dev/zero of=/tmp/disk bs=1M count=16 2>/dev/null
        serve() { $hartvisor vhost-user --socket /tmp/sock --device block,path=/tmp/disk & server=$!; }
        serve
        until [ -S /tmp/sock ]; do sleep 0.1; done";
    let init = "
        exec </dev/hvc0 >/dev/hvc0 2>&1
        modprobe virtio_blk
        cat /sys/block/vda/size
        dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null
        echo guest: ready
        for part in 0 1 2 3 4 5 6 7; do
            dd if=/data of=/dev/vda bs=64k skip=$((part * 16)) seek=$((part * 16)) count=16 oflag=direct 2>/dev/null
            echo guest: part $part
        done
        sync
        echo 3 >/proc/sys/vm/drop_caches
        echo guest: sha $(sha256sum </data)
        echo guest: read $(head -c 8388608 /dev/vda | sha256sum)
        poweroff -f";
    let end = "
        said 'guest: ready'; kill -9 $server; serve
        said 'guest: part 3'; kill -9 $server; sleep 1; serve
        wait $vmm; echo status=$?
        kill $server
        echo host: sha $(head -c 8388608 /tmp/disk | sha256sum)";
    let folder = tempfile::tempdir().unwrap();
    let options = "--vhost-user socket=/tmp/sock,type=blk";
    let text = debian(folder.path(), &[], options, [begin, init, end]);
    assert_eq!(
        said(&text, "guest: sha "),
        said(&text, "guest: read "),
        "{text}"
    );
    assert_eq!(
        said(&text, "guest: sha "),
        said(&text, "host: sha "),
        "{text}"
    );
    assert_has(
        &text,
        &["guest: part 7", "status=0", "its back end is gone"],
    );
}

/// A disk of 1 MiB and random numbers from back ends at sockets, for the tests of our guest, which
/// restore what they write.
fn test_with(serve: &str, run: &str) -> String {
    format!(
        "cd $1
         seq 200000 | head -c 1048576 >disk
         sum=$(sha256sum <disk)
         {serve} vhost-user --once --socket disk.sock --device block,path=disk,serial=ours & disk=$!
         {serve} vhost-user --once --socket rng.sock --device rng & rng=$!
         until [ -S disk.sock ] && [ -S rng.sock ]; do sleep 0.1; done
         {run} --cmdline test --no-rng --vhost-user socket=disk.sock,type=blk \
             --vhost-user socket=rng.sock,type=rng </dev/null 2>&1 || kill $disk $rng
         echo status=$?
         wait $disk && wait $rng && [ \"$(sha256sum <disk)\" = \"$sum\" ] && echo restored"
    )
}

fn assert_tested(text: &str) {
    let bad = |line: &&str| line.starts_with("not ok") && !line.contains("# TODO");
    assert_eq!(text.lines().find(bad), None, "{text}");
    assert_has(
        text,
        &["disk \"ours\", 2048 sectors", "status=0", "restored"],
    );
}

#[test]
fn the_bare_metal_guest_passes_its_tests_on_devices_of_back_ends() {
    let run = format!(
        "{} run --accel kvm --kernel {}",
        hartvisor().display(),
        guest().display()
    );
    let script = test_with(&hartvisor().display().to_string(), &run);
    let mut command = lab::lab(&["--aia"], &[]);
    let output = run_in(command.args(["sh", "-c", &script, "sh", "/tmp"]));
    assert_tested(&output);
}

#[test]
fn our_card_of_another_process_pings_its_gateway() {
    let script = format!(
        "cd /tmp
         modprobe tun
         tunctl -t vm0 >/dev/null
         ip addr add 192.0.2.1/24 dev vm0
         ip link set vm0 up
         {0} vhost-user --once --socket net.sock --device net,tap=vm0 & net=$!
         until [ -S net.sock ]; do sleep 0.1; done
         {0} run --accel kvm --kernel {1} --cmdline 'ip=192.0.2.2/24,192.0.2.1' \
             --vhost-user socket=net.sock,type=net,mac=02:00:00:00:00:05 </dev/null 2>&1 || kill $net
         echo status=$?
         wait $net",
        hartvisor().display(),
        guest().display()
    );
    let mut command = lab::lab(&[], &[]);
    let text = run_in(command.args(["sh", "-c", &script]));
    let bad = |line: &&str| line.starts_with("not ok") && !line.contains("# TODO");
    assert_eq!(text.lines().find(bad), None, "{text}");
    let parts = [
        "network card 02:00:00:00:00:05",
        "net: the gateway answers pings of 1, 56 and 1400 bytes\n",
        "status=0",
    ];
    assert_has(&text, &parts);
}

#[test]
fn it_does_so_under_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let ours = env!("CARGO_BIN_EXE_hartvisor");
    let run = format!("{ours} run --accel qemu --kernel {}", guest().display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &test_with(ours, &run), "sh"]);
    assert_tested(&run_in(command.arg(folder.path())));
}

fn run_in(command: &mut std::process::Command) -> String {
    text(&run(command, b""))
}
