//! Network cards: our guest and Debian's kernel, on tap interfaces of the emulated host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::lab::{guest, hartvisor, host_file, run, text};
use support::script::{assert_has, debian, said, shell};
use support::{linux, tap};

/// Makes the tap interface vm0 in the host, and serves 8 MiB there.
const HOST: &str = "
modprobe tun
modprobe vhost_net
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

/// Megabytes in both directions, with the checksums and segments that the interface offloads, and
/// without them.
fn carries(host: &[&str], options: &str) {
    let options = format!("--memory 512M --net tap=vm0,mac=02:00:00:00:00:05{options}");
    let end = "wait $vmm; echo status=$?; wait $upload
         echo host: sha $sha
         echo host: upload $(sha256sum </tmp/upload)
         [ \"$(sha256sum </tmp/upload)\" = \"$sha\" ] && echo the same";
    let folder = tempfile::tempdir().unwrap();
    let init = format!("{GUEST}poweroff -f\n");
    let text = debian(folder.path(), host, &options, [HOST, &init, end]);
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
    assert_eq!(
        said(&text, "guest: sha "),
        said(&text, "host: sha "),
        "{text}"
    );
}

#[test]
fn debian_talks_to_the_host_through_a_tap_interface() {
    carries(&[], "");
}

#[test]
fn the_hosts_kernel_serves_the_queues_by_vhost_net() {
    carries(&["--aia"], ",vhost=on");
}

#[test]
#[cfg(feature = "full")]
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
fn the_link_follows_the_interface_also_when_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let delete = linux::program(folder.path(), "delete", DELETE);
    let init = "
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe virtio_net
cd /sys/class/net/eth0
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
echo guest: carrier $(cat carrier)
until [ $(cat carrier) = 0 ]; do sleep 0.1; done
echo guest: no carrier
until [ $(cat carrier) = 1 ]; do sleep 0.1; done
until ping -c 1 -W 1 192.0.2.1 >/dev/null; do :; done
echo guest: carrier again
until [ $(cat carrier) = 0 ]; do ping -c 1 -W 1 192.0.2.1 >/dev/null; done
echo guest: gone
ip link set eth0 down; ip link set eth0 up
poweroff -f
";
    let end = format!(
        "said 'guest: carrier 1'; ip link set vm0 down
         said 'guest: no carrier'; ip link set vm0 up
         said 'guest: carrier again'; {} vm0
         wait $vmm; echo status=$?",
        delete.display()
    );
    let text = debian(folder.path(), &[], "--net tap=vm0", [HOST, init, &end]);
    let parts = [
        "guest: carrier 1",
        "guest: no carrier",
        "guest: carrier again",
        "guest: gone",
        "status=0",
        "the network is gone",
    ];
    assert_has(&text, &parts);
}

/// What a guest with passt does: an address by DHCP, a page from the host and one for it, until the
/// host asks for its end.
const WITH_PASST: &str = "
while [ ! -c /dev/hvc0 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe virtio_net
cat >/bound <<'END'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev eth0
ip route add default via $router
echo guest: address $ip router $router
END
chmod +x /bound
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -f -t 30 -s /bound
wget -q -O /data http://$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'):8000/data
echo guest: sha $(sha256sum </data)
mkdir /www; cp /data /www
httpd -h /www -p 80
echo guest: serving
nc -l -p 81 </dev/null >/dev/null
poweroff -f
";

/// Makes an interface with a default route, whose addresses passt gives to guests, and serves 8 MiB
/// on the loopback address, which guests reach as their router.
fn passt_host(interface: &str) -> String {
    format!(
        "{interface}
         ip link set lo up
         ip addr add 192.0.2.2/24 dev d0
         ip link set d0 up
         ip route add default via 192.0.2.1
         mkdir $dir/www
         dd if=/dev/urandom of=$dir/www/data bs=1M count=8 2>/dev/null
         sha=$(sha256sum <$dir/www/data)
         "
    )
}

/// When the guest serves: its copy by one forwarded port, and its end by another.
const FETCH: &str = "
until grep -q 'guest: serving' $dir/out || ! kill -0 $vmm 2>/dev/null; do sleep 0.2; done
get 8080 /data >$dir/copy
get 8081 / >/dev/null 2>&1
wait $vmm; echo status=$?
cat $dir/out
[ \"$(sha256sum <$dir/copy)\" = \"$sha\" ] && echo the same
";

fn assert_passt(text: &str) {
    let parts = [
        "guest: address 192.0.2.2 router 192.0.2.1",
        "guest: serving",
        "status=0",
        "the same",
    ];
    assert_has(text, &parts);
}

#[test]
fn an_ordinary_user_has_a_network_by_passt_and_forwards_ports() {
    has_passt(&[], "");
}

#[test]
fn passt_serves_the_queues_itself_over_vhost_user() {
    has_passt(&["--aia"], ",vhost-user=on");
}

/// A guest of the user nobody, with these options of the host and of the card.
fn has_passt(host: &[&str], options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = linux::initramfs(folder.path(), "host", WITH_PASST);
    let script = format!(
        "dir=/tmp
         get() {{ wget -q -O - http://127.0.0.1:$1$2; }}
         {}
         httpd -h /tmp/www -p 127.0.0.1:8000
         chmod 666 /dev/kvm
         chmod 755 /tmp/www; chmod 777 /tmp
         cd /tmp
         su -s /bin/sh nobody -c '{} run --accel kvm --memory 512M --kernel {} --initrd {} --serial null \
             --cmdline \"console=hvc0 quiet\" --net passt,forward=127.0.0.1/8080:80+8081:81{options}' \
             </dev/null >/tmp/out 2>&1 & vmm=$!
         {FETCH}
         sleep 1; echo passt: $(pidof passt) left: $(ls -d /tmp/hartvisor* 2>/dev/null)",
        passt_host("modprobe dummy; ip link add d0 type dummy"),
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    let text = shell(host, folder.path(), &script);
    assert_passt(&text);
    assert!(text.contains("passt: left:\n"), "{text}");
}

/// Serves a file on port 8000 with Perl, which every Debian has.
const SERVE: &str = r#"use IO::Socket::INET;
$server = IO::Socket::INET->new(LocalAddr => "127.0.0.1:8000", Listen => 5, ReuseAddr => 1) or die;
open F, "<", $ARGV[0]; local $/; $data = <F>;
while ($client = $server->accept) {
    { local $/ = "\n"; while (<$client>) { last if /^\r?$/ } }
    print $client "HTTP/1.0 200 OK\r\n\r\n$data";
    close $client;
}"#;

/// The body of a page.
const GET: &str = r"get() {
    exec 3<>/dev/tcp/127.0.0.1/$1
    printf 'GET %s HTTP/1.0\r\n\r\n' $2 >&3
    sed '1,/^\r$/d' <&3
    exec 3>&-
}";

/// On this machine, in a network namespace of its own.
#[test]
fn a_guest_under_qemu_has_a_network_by_passt() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = linux::initramfs(folder.path(), "host", WITH_PASST);
    let script = format!(
        "dir={}
         {}
         {GET}
         perl -e '{SERVE}' $dir/www/data >/dev/null 2>&1 & server=$!
         {} run --accel qemu --memory 512M --kernel {} --initrd {} --serial null \
             --cmdline 'console=hvc0 quiet' --net passt,forward=127.0.0.1/8080:80+8081:81 \
             </dev/null >$dir/out 2>&1 & vmm=$!
         {FETCH}
         kill $server",
        folder.path().display(),
        passt_host(INTERFACE),
        env!("CARGO_BIN_EXE_hartvisor"),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    assert_passt(&in_namespace(&script));
}

/// An interface of any kind, as root of a network namespace.
const INTERFACE: &str = "ip link add d0 type dummy 2>/dev/null || ip link add d0 type bridge || ip tuntap add d0 mode tap";

/// Runs a shell script on this machine, as root of a network namespace of its own.
fn in_namespace(script: &str) -> String {
    let mut command = std::process::Command::new("unshare");
    let command = command.args(["--user", "--map-root-user", "--net", "bash", "-c"]);
    text(&run(command.arg(format!("({script}) 2>&1")), b""))
}

/// Sends each datagram back, until it is killed.
const ECHO: &str = r"
#include <netinet/in.h>
#include <sys/socket.h>
int main(void) {
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(7) }, there;
    if (bind(udp, (struct sockaddr *)&here, sizeof here)) return 1;
    for (;;) {
        char bytes[2048];
        socklen_t len = sizeof there;
        ssize_t count = recvfrom(udp, bytes, sizeof bytes, 0, (struct sockaddr *)&there, &len);
        sendto(udp, bytes, count, 0, (struct sockaddr *)&there, len);
    }
}
";

/// Gives the guest 192.0.2.20.
const DHCP: &str = "
printf '%s\\n' 'interface vm0' 'start 192.0.2.20' 'end 192.0.2.20' 'opt subnet 255.255.255.0' \\
    'opt router 192.0.2.1' 'lease_file /tmp/leases' >/tmp/udhcpd.conf
touch /tmp/leases
udhcpd -f /tmp/udhcpd.conf >/dev/null 2>&1 &
";

/// Our guest with each of these settings, one run after another. Returns their outputs.
fn our_guest<const N: usize>(host: &[&str], begin: &str, settings: [&str; N]) -> [String; N] {
    let folder = tempfile::tempdir().unwrap();
    let echo = linux::program(folder.path(), "echo", ECHO);
    let runs = settings.map(|settings| {
        format!(
            "echo MARK
             {} run --accel kvm --kernel {} --net tap=vm0,mac=02:00:00:00:00:05 \
                 --cmdline 'test {settings}' </dev/null; echo status=$?
            ",
            hartvisor().display(),
            guest().display(),
        )
    });
    let script = format!(
        "{HOST} {} >/dev/null 2>&1 &
         {begin} {}",
        echo.display(),
        runs.concat(),
    );
    let text = shell(host, folder.path(), &script);
    let runs: Vec<_> = text.split("MARK\n").skip(1).map(str::to_owned).collect();
    runs.try_into().expect(&text)
}

/// What is the same with every address.
fn assert_answered(text: &str, parts: &[&str]) {
    tap::assert_passed(text, &["block device", "one hart", "typed"]);
    assert_has(text, parts);
    let parts = [
        "network card 02:00:00:00:00:05, MTU 1400",
        "\n# 1372 bytes to 192.0.2.1 and back: ",
        "- net: a datagram comes back\n",
        "status=0",
    ];
    assert_has(text, &parts);
}

#[test]
fn our_guest_pings_its_gateway_and_fails_without_one() {
    let [answered, silent] = our_guest(
        &[],
        "",
        [
            "ip=192.0.2.2/24,192.0.2.1 udp=192.0.2.1:7",
            "ip=192.0.2.2/24,192.0.2.9 udp=192.0.2.1:7",
        ],
    );
    let address = "# address 192.0.2.2/24, gateway 192.0.2.1, from ip=";
    assert_answered(&answered, &["# PLIC: ", address]);
    let parts = [
        "message: \"no ARP reply from 192.0.2.9 within 10 s\"",
        "without any optional feature # SKIP no gateway that answers",
        "status=1",
    ];
    assert_has(&silent, &parts);
}

#[test]
fn our_guest_gets_its_address_by_dhcp_on_a_host_with_aia() {
    let host = ["--aia-guests", "2"];
    let [answered] = our_guest(&host, DHCP, ["udp=192.0.2.1:7"]);
    let address = "# address 192.0.2.20/24, gateway 192.0.2.1, by DHCP";
    assert_answered(&answered, &["# APLIC (MSI) and IMSIC: ", address]);
}

/// Guests on one bridge at the same time.
#[cfg(feature = "full")]
const NEIGHBOURS: usize = 100;

/// All run when the host pings them, one after another, and then end.
#[cfg(feature = "full")]
#[test]
fn many_guests_on_one_bridge_answer_pings() {
    let script = format!(
        "modprobe tun; modprobe bridge
         brctl addbr br0; ip addr add 192.0.2.1/24 dev br0; ip link set br0 up
         cd /tmp
         guests=$(seq 2 {})
         for i in $guests; do
             tunctl -t vm$i >/dev/null; brctl addif br0 vm$i; ip link set vm$i up
             mkfifo in$i
             sleep 3000 >in$i 2>/dev/null & held=\"$held $!\"
             {} run --accel kvm --memory 16M --kernel {} --net tap=vm$i \
                 --cmdline \"echo ip=192.0.2.$i/24,192.0.2.1\" <in$i >out$i 2>&1 & vmms=\"$vmms $!\"
         done
         for i in $guests; do
             until grep -q echo: out$i; do pidof hartvisor >/dev/null || break; sleep 0.2; done
         done
         for i in $guests; do ping -c 1 -W 20 -q 192.0.2.$i | grep received; done
         echo running: $(pidof hartvisor | wc -w)
         for i in $guests; do printf '\\004' >in$i; done
         for vmm in $vmms; do wait $vmm; echo status=$?; done
         kill $held; cat out*",
        NEIGHBOURS + 1,
        hartvisor().display(),
        guest().display(),
    );
    let folder = tempfile::tempdir().unwrap();
    let text = shell(&["--timeout", "1200"], folder.path(), &script);
    let count = |what: &str| text.matches(what).count();
    assert_has(&text, &[&format!("running: {NEIGHBOURS}\n")]);
    assert_eq!(count(", 1 packets received"), NEIGHBOURS, "{text}");
    assert_eq!(count("status=0\n"), NEIGHBOURS, "{text}");
}

/// A guest's /init that starts programs of Debian's disk, without its systemd, at 192.0.2.2.
#[cfg(feature = "full")]
const DEBIAN: &str = "
while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe virtio_net
ip link set lo up
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1
mount /dev/vda /mnt
for it in proc sys dev; do mount --move /$it /mnt/$it; done
mkdir -p /mnt/dev/pts; mount -t devpts none /mnt/dev/pts; mount -t tmpfs none /mnt/run
";

/// Both directions, at the same disk: the emulated host's programs are Debian's too.
#[cfg(feature = "full")]
#[test]
fn iperf3_of_debian_measures_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let disk = linux::copy_of("debian", folder.path());
    let init = format!(
        "{DEBIAN}echo guest: serving
         chroot /mnt iperf3 --server --one-off
         chroot /mnt iperf3 --server --one-off
         mount -o remount,ro /mnt
         poweroff -f
        "
    );
    let initramfs = linux::initramfs(folder.path(), "host", &init);
    let script = format!(
        "modprobe tun; modprobe loop; modprobe crc32c_generic; modprobe ext4
         tunctl -t vm0 >/dev/null; ip addr add 192.0.2.1/24 dev vm0; ip link set vm0 up
         mkdir /mnt; mount -t ext4 -o loop,ro,noload {0} /mnt
         mount --bind /dev /mnt/dev; mount -t proc none /mnt/proc; mount -t tmpfs none /mnt/tmp
         {1} run --accel kvm --memory 512M --kernel {2} --initrd {3} --serial null \
             --cmdline 'console=hvc0 quiet' --disk {4} --net tap=vm0 </dev/null >/tmp/out 2>&1 & vmm=$!
         until grep -q 'guest: serving' /tmp/out || ! kill -0 $vmm 2>/dev/null; do sleep 0.2; done
         for direction in '' --reverse; do
             for try in $(seq 20); do
                 # The server may not listen yet.
                 chroot /mnt iperf3 --client 192.0.2.2 --bytes 8M $direction && break; sleep 1
             done
         done
         [ $try = 20 ] && kill -9 $vmm
         wait $vmm; echo status=$?; cat /tmp/out",
        support::lab::cached("debian", "disk").display(),
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
        disk.display(),
    );
    let text = shell(&["--timeout", "900"], folder.path(), &script);
    let done = text.matches("iperf Done.").count();
    assert!(done == 2 && text.contains("status=0\n"), "{text}");
}

/// The client is this machine's. Everything is in a network namespace.
#[cfg(feature = "full")]
#[test]
fn ssh_reaches_debian_through_a_port_that_passt_forwards() {
    let folder = tempfile::tempdir().unwrap();
    let disk = linux::copy_of("debian", folder.path());
    let key = folder.path().join("key");
    let mut make = std::process::Command::new("ssh-keygen");
    linux::succeed(make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let init = format!(
        "{DEBIAN}chroot /mnt ssh-keygen -A
         echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>/mnt/etc/passwd
         mkdir -p -m 755 /mnt/run/sshd
         mkdir -p -m 700 /mnt/root/.ssh
         echo '{}' >/mnt/root/.ssh/authorized_keys
         echo guest: serving
         chroot /mnt /usr/sbin/sshd -D -e -f /dev/null
        ",
        public.trim()
    );
    let initramfs = linux::initramfs(folder.path(), "host", &init);
    let script = format!(
        "{}
         {} run --accel qemu --memory 512M --kernel {} --initrd {} --serial null \
             --cmdline 'console=hvc0 quiet' --disk {} --net passt,forward=127.0.0.1/2222:22 \
             </dev/null >$dir/out 2>&1 & vmm=$!
         until grep -q 'Server listening' $dir/out || ! kill -0 $vmm 2>/dev/null; do sleep 0.2; done
         ssh -F none -i $dir/key -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null root@127.0.0.1 \
             'echo from $(. /etc/os-release; echo $ID) as $(id -un); sync; echo o >/proc/sysrq-trigger; sleep 60'
         wait $vmm; echo status=$?; cat $dir/out",
        passt_host(INTERFACE),
        env!("CARGO_BIN_EXE_hartvisor"),
        host_file("vmlinux").display(),
        initramfs.display(),
        disk.display(),
    );
    let text = in_namespace(&format!("dir={}; {script}", folder.path().display()));
    assert_has(&text, &["from debian as root", "status=0"]);
}
