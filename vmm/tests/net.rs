//! Network cards: Debian's kernel as a guest, on tap interfaces of the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

mod support;

use support::lab::{self, hartvisor, host_file, run, text};
use support::linux;

/// Makes the tap interface vm0 in the host, and serves 8 MiB there.
const HOST: &str = "
modprobe tun
tunctl -t vm0 >/dev/null
ip addr add 192.0.2.1/24 dev vm0
ip link set vm0 mtu 1400 up
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/data bs=1M count=8 2>/dev/null
sha=$(sha256sum </tmp/www/data)
httpd -h /tmp/www -p 192.0.2.1:80
nc -l -p 9 >/tmp/upload & upload=$!
";

/// The guest's side: what it sees, 8 MiB from the host, and 8 MiB back.
const GUEST: &str = "
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe virtio_net
cd /sys/class/net/eth0
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
echo guest: mac $(cat address) mtu $(cat mtu) carrier $(cat carrier)
ping -c 3 -q 192.0.2.1 | grep received
ping -c 1 -s 1372 -q 192.0.2.1 | grep received
wget -q -O /data http://192.0.2.1/data
echo guest: sha $(sha256sum </data)
nc 192.0.2.1 9 </data
";

/// Runs the guest in the host, with these commands of the host before and after it.
fn network(host: &[&str], net: &str, begin: &str, init: &str, end: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = linux::initramfs(folder.path(), "host", init);
    let script = format!(
        "{begin}
         {} run --accel kvm --memory 512M --kernel {} --initrd {} --serial null \
             --cmdline 'console=hvc0 quiet' --net {net} </dev/null & vmm=$!
         {end}",
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    shell(host, folder.path(), &script)
}

fn shell(host: &[&str], folder: &Path, script: &str) -> String {
    let mut command = lab::lab(host, &[folder]);
    let output = run(command.args(["sh", "-c", &format!("{script} 2>&1")]), b"");
    text(&output)
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Megabytes in both directions, with the checksums and segments that the interface offloads, and
/// without them.
fn carries(host: &[&str], options: &str) {
    let net = format!("tap=vm0,mac=02:00:00:00:00:05{options}");
    let end = "wait $vmm; echo status=$?; wait $upload
         echo host: sha $sha
         echo host: upload $(sha256sum </tmp/upload)
         [ \"$(sha256sum </tmp/upload)\" = \"$sha\" ] && echo the same";
    let text = network(host, &net, HOST, &format!("{GUEST}poweroff -f\n"), end);
    assert_has(
        &text,
        &[
            "guest: mac 02:00:00:00:00:05 mtu 1400 carrier 1",
            "3 packets received",
            "1 packets received",
            "status=0",
            "the same",
        ],
    );
    let sha = |who: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(who));
        line.map(str::to_owned).expect(&text)
    };
    assert_eq!(sha("guest: sha "), sha("host: sha "), "{text}");
}

#[test]
fn debian_talks_to_the_host_through_a_tap_interface() {
    carries(&[], "");
}

#[test]
fn debian_talks_to_a_host_with_aia_without_offloads() {
    carries(&["--aia-guests", "2"], ",offload=off");
}
