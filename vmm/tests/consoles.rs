//! Back ends of the consoles, on RISC-V KVM: pseudo-terminal, socket, file, a window that changes
//! its size, a reader that stops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

mod support;

use support::lab::{self, guest, hartvisor, host_file, run, text};
use support::linux;
use support::program::{Deadline, LIMIT, LOOK, until};
use support::session::Session;

/// Returns `hartvisor run --accel kvm` for a shell in the lab.
fn on_kvm() -> String {
    format!("{} run --accel kvm", hartvisor().display())
}

/// As above, with the bare-metal guest in its echo mode.
fn echoing() -> String {
    let guest = guest();
    format!("{} --kernel {} --cmdline echo", on_kvm(), guest.display())
}

/// As above, with Debian's kernel and an /init that continues with `script`.
fn debian(folder: &Path, script: &str) -> String {
    let initramfs = linux::initramfs(folder, "host", script);
    format!(
        "{} --memory 512M --kernel {} --initrd {}",
        on_kvm(),
        host_file("vmlinux").display(),
        initramfs.display()
    )
}

fn shell(folders: &[&Path], script: &str) -> String {
    let mut lab = lab::lab(&[], folders);
    text(&run(lab.args(["sh", "-c", script]), b""))
}

#[test]
fn a_pseudo_terminal_serves_one_client_after_another() {
    let script = format!(
        "{} --console pty --serial file:/tmp/log 2>/tmp/err & vmm=$!
         while ! grep -q 'console is at' /tmp/err; do sleep 0.1; done
         pty=$(sed -n 's/.*--console is at //p' /tmp/err)
         for word in first second; do
             exec 3<>$pty; echo $word >&3
             read -r line <&3; while [ \"$line\" != $word ]; do read -r line <&3; done
             echo \"came back: $line\"; exec 3>&-
         done
         printf '\\004' >$pty; wait $vmm; echo status=$?; cat /tmp/log",
        echoing()
    );
    let text = shell(&[], &script);
    for part in ["came back: first", "came back: second", "status=0"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// A client that sends its second argument to the socket in its first, and prints a line of the
/// reply.
const CLIENT: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    strncpy(name.sun_path, argv[1], sizeof name.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    while (connect(fd, (struct sockaddr *)&name, sizeof name) != 0)
        usleep(50000);
    FILE *lines = fdopen(fd, "r");
    char line[1000];
    dprintf(fd, "%s\n", argv[2]);
    while (fgets(line, sizeof line, lines))
        if (strstr(line, argv[2]))
            return printf("came back: %s", line) < 0;
    return 1;
}
"#;

/// Builds the client for the host in the lab.
fn client(folder: &Path) -> PathBuf {
    linux::program(folder, "client", CLIENT)
}

#[test]
fn a_socket_serves_one_client_after_another_and_goes_with_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(folder.path());
    let script = format!(
        "{} --console socket:/tmp/console --serial null & vmm=$!
         for word in first second; do {client} /tmp/console $word; done
         kill -TERM $vmm; wait $vmm; echo status=$?; ls /tmp/console",
        echoing(),
        client = client.display()
    );
    let text = shell(&[folder.path()], &script);
    for part in [
        "came back: first",
        "came back: second",
        "status=143",
        "/tmp/console: No such file",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn debian_sees_the_window_and_its_changes() {
    sees_the_window("");
}

/// With additional ports the size comes in messages, not in the configuration space.
#[test]
#[cfg(feature = "full")]
fn debian_sees_the_window_beside_ports_too() {
    sees_the_window("--port name=none,target=null");
}

fn sees_the_window(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let init = r#"
while [ ! -c /dev/hvc0 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
# Until the size is known, stty prints 0 0, or an error (busybox).
while size=$(stty size 2>/dev/null); [ "${size:-0 0}" = "0 0" ]; do sleep 0.1; done
echo "guest: size $size"
echo ready >/dev/ttyS0
while [ "$(stty size)" = "33 99" ]; do sleep 0.1; done
echo "guest: size now $(stty size)"
poweroff -f
"#;
    let script = format!(
        "stty rows 33 cols 99; tty=$(tty)
         (while ! grep -q ready /tmp/log; do sleep 0.2; done 2>/dev/null; stty -F $tty rows 44 cols 111) &
         {} {options} --cmdline 'console=hvc0 quiet' --serial file:/tmp/log; echo status=$?",
        debian(folder.path(), init)
    );
    let mut terminal = lab::terminal(&[folder.path()], &script);
    terminal.expect("guest: size 33 99");
    terminal.expect("guest: size now 44 111");
    terminal.expect("status=0");
}

/// The ports of a guest's console, from its /init: their names, an echo on the first, much text to
/// the second.
const PORTS: &str = r#"
while [ "$(cat /sys/class/virtio-ports/*/name 2>/dev/null | wc -l)" -lt 3 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
for port in /sys/class/virtio-ports/vport*; do
    name=$(cat $port/name)
    echo "guest: port $name"
    eval "${name##*.}=/dev/$(basename $port)"
done
seq 200000 >$log
echo "dropped" >$none
exec 3<>$agent
for word in first second; do
    while ! read -r line <&3; do sleep 0.1; done
    echo "$line" >&3
done
poweroff -f
"#;

#[test]
fn debian_finds_ports_by_their_names_and_talks_through_them() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(folder.path());
    let script = format!(
        "{} --cmdline 'console=hvc0 quiet' --serial null \
             --port name=org.example.agent,target=socket:/tmp/agent \
             --port name=org.example.log,target=file:/tmp/log --port name=none,target=null & vmm=$!
         for word in first second; do {client} /tmp/agent $word; done
         wait $vmm; echo status=$?; seq 200000 | cmp - /tmp/log && echo the log is whole",
        debian(folder.path(), PORTS),
        client = client.display()
    );
    let text = shell(&[folder.path()], &script);
    for part in [
        "guest: port org.example.agent",
        "guest: port org.example.log",
        "came back: first",
        "came back: second",
        "status=0",
        "the log is whole",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// The same with QEMU's devices, on this machine.
#[test]
fn debian_finds_the_same_ports_under_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command
        .args(["run", "--accel", "qemu", "--memory", "512M", "--kernel"])
        .arg(host_file("vmlinux"))
        .arg("--initrd")
        .arg(linux::initramfs(folder.path(), "host", PORTS))
        .args(["--cmdline", "console=hvc0 quiet", "--serial", "null"])
        .args(["--port", "name=none,target=null", "--port"])
        .arg(format!(
            "name=org.example.log,target=file:{}",
            path("log").display()
        ))
        .arg("--port")
        .arg(format!(
            "name=org.example.agent,target=socket:{}",
            path("agent").display()
        ));
    let mut session = Session::start(&command);
    session.close();
    let mut deadline = Deadline::of(session.id(), LIMIT);
    let agent = until("the agent's socket", &mut deadline, || {
        UnixStream::connect(path("agent")).ok()
    });
    agent.set_read_timeout(Some(LOOK)).unwrap();
    let mut lines = BufReader::new(&agent);
    for word in ["first\n", "second\n"] {
        (&agent).write_all(word.as_bytes()).unwrap();
        let mut line = String::new();
        // Text received before a timeout stays in `line`.
        while let Err(error) = lines.read_line(&mut line) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            deadline.check(word, &line);
        }
        assert_eq!(line, word);
    }
    let (status, seen) = session.end(LIMIT);
    assert_eq!(status, Some(0), "{seen}");
    assert!(seen.contains("guest: port org.example.agent"), "{seen}");
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(path("log")).unwrap() == expected);
}

#[test]
fn a_reader_that_stops_stalls_neither_the_disk_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    // hvc0's driver busy-waits on its CPU, so there is another one.
    let init = r#"
while [ ! -c /dev/hvc0 ] || [ ! -b /dev/vda ]; do sleep 0.1; done
yes flood >/dev/ttyS0 &
yes flood >/dev/hvc0 &
sleep 3
n=0
while true; do
    n=$((n + 1))
    echo "block $n" | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null
done
"#;
    let script = format!(
        "mkfifo /tmp/out; sleep 1000 </tmp/out & reader=$!
         {} --cpus 2 --cmdline 'console=ttyS0 quiet' --disk {disk} >/tmp/out </dev/null & vmm=$!
         for goal in 20 40; do
             while n=$(head -c 32 {disk} | tr -d '\\0' | sed -n 's/block //p'); [ \"${{n:-0}}\" -lt $goal ]; do sleep 0.2; done
             echo \"disk: beyond $goal\"
         done
         kill -TERM $vmm; wait $vmm; echo status=$?; kill $reader",
        debian(folder.path(), init),
        disk = disk.display()
    );
    let text = shell(&[folder.path()], &script);
    for part in ["disk: beyond 20", "disk: beyond 40", "status=143"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
