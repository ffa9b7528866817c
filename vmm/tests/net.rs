//! Network cards: Debian's kernel as a guest, on tap interfaces of the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

mod support;

use tempfile::TempDir;

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
# nc also ends at the end of its own input.
mkfifo /tmp/open
sleep 1000 >/tmp/open 2>/dev/null &
nc -l -p 9 </tmp/open >/tmp/upload 2>/dev/null & upload=$!
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
fn network(
    folder: TempDir,
    host: &[&str],
    net: &str,
    begin: &str,
    init: &str,
    end: &str,
) -> String {
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
    let folder = tempfile::tempdir().unwrap();
    let text = network(
        folder,
        host,
        &net,
        HOST,
        &format!("{GUEST}poweroff -f\n"),
        end,
    );
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

/// Deletes the interface that its argument names, which busybox cannot.
const DELETE: &str = r"
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    struct { struct nlmsghdr header; struct ifinfomsg info; } message = {
        .header = { sizeof message, RTM_DELLINK, NLM_F_REQUEST },
        .info = { .ifi_index = if_nametoindex(argv[1]) },
    };
    int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    return send(netlink, &message, sizeof message, 0) != sizeof message;
}
";

/// The guest goes on without its interface, with its link down (cloud-hypervisor's issue 8722: the
/// monitor ended).
#[test]
fn a_deleted_interface_is_a_link_that_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let delete = linux::program(folder.path(), "delete", DELETE);
    let init = "
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe virtio_net
cd /sys/class/net/eth0
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
echo guest: carrier $(cat carrier)
while [ $(cat carrier) = 1 ]; do ping -c 1 -W 1 192.0.2.1 >/dev/null; done
echo guest: carrier $(cat carrier)
ip link set eth0 down; ip link set eth0 up
poweroff -f
";
    let end = format!(
        "while [ \"$(cat /sys/class/net/vm0/statistics/rx_packets)\" -lt 5 ]; do sleep 0.2; done
         ip link set vm0 down; sleep 1; {} vm0; wait $vmm; echo status=$?",
        delete.display()
    );
    let text = network(folder, &[], "tap=vm0", HOST, init, &end);
    let parts = [
        "guest: carrier 1",
        "guest: carrier 0",
        "status=0",
        "the network is gone",
    ];
    assert_has(&text, &parts);
}
