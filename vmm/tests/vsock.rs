//! The socket device: our guest, and programs in Debian's kernel as a guest, talk to programs of the
//! emulated host, in both directions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

mod support;

use support::lab::{self, guest as our_guest, hartvisor, host_file, run, text};
use support::session::Session;
use support::{echo, linux, tap};

/// Sends pseudo-random bytes and ends its data, while it receives and checks the other side's, which
/// may go on after that. It listens or dials, by AF_VSOCK in the guest and by AF_UNIX in the host.
const TALK: &str = r#"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t block[512];

static void fill(uint64_t *state) {
    for (int i = 0; i < 512; i++) {
        *state ^= *state << 13; *state ^= *state >> 7; *state ^= *state << 17;
        block[i] = *state;
    }
}

static int fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

static int talk(int fd, const char *who, size_t total, uint64_t own, uint64_t other) {
    pid_t sender = fork();
    if (sender == 0) {
        for (size_t sent = 0; sent < total; ) {
            fill(&own);
            size_t want = total - sent < 4096 ? total - sent : 4096;
            for (size_t done = 0; done < want; ) {
                ssize_t count = write(fd, (char *)block + done, want - done);
                if (count <= 0) _exit(fail("write"));
                done += count;
            }
            sent += want;
        }
        shutdown(fd, SHUT_WR);
        _exit(0);
    }
    size_t got = 0;
    static char bytes[65536];
    for (;;) {
        ssize_t count = read(fd, bytes, sizeof bytes);
        if (count < 0) return fail("read");
        if (count == 0) break;
        for (ssize_t i = 0; i < count; i++, got++) {
            if (got % 4096 == 0) fill(&other);
            if (bytes[i] != ((char *)block)[got % 4096]) { printf("wrong byte at %zu\n", got); return 1; }
        }
    }
    int status = 0;
    waitpid(sender, &status, 0);
    close(fd);
    if (got != total || status != 0) { printf("%s: %zu bytes, %d\n", who, got, status); return 1; }
    return 0;
}

int main(int argc, char **argv) {
    const char *role = argv[1], *address = argv[2];
    int count = atoi(argv[3]);
    size_t total = atol(argv[4]);
    setbuf(stdout, NULL);
    int in_guest = role[0] == 'v', listens = strcmp(role + 1, "listen") == 0;
    struct sockaddr_vm vm = { .svm_family = AF_VSOCK, .svm_cid = listens ? VMADDR_CID_ANY : VMADDR_CID_HOST };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct sockaddr *to = in_guest ? (struct sockaddr *)&vm : (struct sockaddr *)&un;
    socklen_t len = in_guest ? sizeof vm : sizeof un;
    if (in_guest) vm.svm_port = atoi(address); else strcpy(un.sun_path, address);
    if (listens) {
        int listener = socket(in_guest ? AF_VSOCK : AF_UNIX, SOCK_STREAM, 0);
        if (bind(listener, to, len) || listen(listener, 10)) return fail("listen");
        printf("%s: listens\n", role);
        for (int i = 0; i < count; i++) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) return fail("accept");
            if (talk(fd, role, total, 1, 2)) return 1;
        }
    } else {
        for (int i = 0; i < count; i++) {
            int fd = socket(in_guest ? AF_VSOCK : AF_UNIX, SOCK_STREAM, 0);
            if (connect(fd, to, len)) return fail("connect");
            if (!in_guest) {
                dprintf(fd, "CONNECT %s\n", argv[5]);
                char byte = 0, first = 0;
                while (byte != '\n') {
                    // The guest does not listen yet.
                    if (read(fd, &byte, 1) != 1) return 2;
                    if (!first) first = byte;
                }
                if (first != 'O') return fail("no OK");
            }
            if (talk(fd, role, total, 2, 1)) return 1;
        }
    }
    printf("%s: %d of %zu bytes each way\n", role, count, total);
    return 0;
}
"#;

const BEGIN: &str = "
exec </dev/hvc0 >/dev/hvc0 2>&1
modprobe vmw_vsock_virtio_transport
";

/// An initramfs with the program, and the program.
fn guest(folder: &Path, script: &str) -> (PathBuf, PathBuf) {
    let bin = folder.join("root/bin");
    fs::create_dir_all(&bin).unwrap();
    let program = linux::program(folder, "talk", TALK);
    fs::copy(&program, bin.join("talk")).unwrap();
    let initramfs = linux::initramfs(folder, "host", &format!("{BEGIN}{script}\npoweroff -f\n"));
    (initramfs, program)
}

/// Megabytes both ways at once in connections of the guest and of the host, a port without a
/// listener, and 50 connections that leave no descriptor behind.
fn talks(options: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let script = "
talk vdial 52 1 8388608
talk vdial 53 1 0
talk vlisten 22 1 8388608
talk vlisten 23 50 1000
";
    let (initramfs, talk) = guest(folder.path(), script);
    let script = format!(
        "talk={}
         $talk ulisten /tmp/v.sock_52 1 8388608 >/tmp/listener 2>&1 & listener=$!
         while ! [ -S /tmp/v.sock_52 ]; do sleep 0.1; done
         {} run --accel kvm --memory 512M --kernel {} --initrd {} --serial null \
             --cmdline 'console=hvc0 quiet' --vsock cid=5,path=/tmp/v.sock </dev/null & vmm=$!
         wait $listener; echo status=$?; cat /tmp/listener
         dial() {{ until $talk udial /tmp/v.sock $1 $2 $3; do [ $? = 2 ] || break; sleep 0.2; done; }}
         dial 1 8388608 22
         dial 1 1000 23
         dial 48 1000 23
         # The last one ends when the guest has answered.
         sockets() {{ ls -l /proc/$vmm/fd | grep -c socket:; }}
         for i in $(seq 100); do [ $(sockets) = 1 ] && break; sleep 0.2; done
         echo sockets=$(sockets)
         ls -l /tmp/v.sock
         dial 1 1000 23
         wait $vmm; echo vmm=$?
         ls /tmp/v.sock",
        talk.display(),
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    let mut command = lab::lab(options, &[folder.path()]);
    let output = run(
        command.args(["sh", "-c", &format!("{{ {script}\n}} 2>&1")]),
        b"",
    );
    let text = text(&output);
    for part in [
        "status=0",
        "ulisten: 1 of 8388608 bytes each way",
        "vdial: 1 of 8388608 bytes each way",
        "connect: Connection reset by peer",
        "udial: 1 of 8388608 bytes each way",
        "vlisten: 1 of 8388608 bytes each way",
        "udial: 48 of 1000 bytes each way",
        "vlisten: 50 of 1000 bytes each way",
        "sockets=1",
        "srw-------",
        "vmm=0",
        "/tmp/v.sock: No such file",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn debian_talks_to_programs_of_the_host() {
    talks(&[]);
}

#[test]
#[cfg(feature = "full")]
fn debian_talks_to_programs_of_a_host_with_aia() {
    talks(&["--aia-guests", "2"]);
}

/// What remains of the arguments of our guest's runs on KVM and under QEMU.
const OUR_GUEST: [&str; 2] = ["--cmdline", "test vsock=52 vsock-listen=1234"];

fn assert_tap(text: &str) {
    tap::assert_passed(text, &["block device", "one hart", "typed"]);
    for part in [
        "socket device, context ID 7, features 0x",
        "# 30000 bytes sent back\n",
        "dial: 30000 bytes, the same",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Our guest, with a program that sends back and one that dials.
fn our_guest_talks(host: &[&str], controller: &str) {
    let folder = tempfile::tempdir().unwrap();
    let echo = linux::program(folder.path(), "echo", echo::PROGRAM);
    let script = format!(
        "{0} /tmp/v.sock_52 >/dev/null 2>&1 &
         {0} /tmp/v.sock 1234 >/tmp/dialed 2>&1 & dialer=$!
         {1} run --accel kvm --kernel {2} --vsock path=/tmp/v.sock,cid=7 {3} '{4}' </dev/null
         echo status=$?
         wait $dialer; cat /tmp/dialed",
        echo.display(),
        hartvisor().display(),
        our_guest().display(),
        OUR_GUEST[0],
        OUR_GUEST[1],
    );
    let mut command = lab::lab(host, &[folder.path()]);
    let output = run(
        command.args(["sh", "-c", &format!("{{ {script}\n}} 2>&1")]),
        b"",
    );
    let text = text(&output).replace('\r', "");
    assert_tap(&text);
    assert!(
        text.contains("status=0") && text.contains(controller),
        "{text}"
    );
}

#[test]
fn our_guest_talks_to_programs_of_the_host() {
    our_guest_talks(&[], "# PLIC: ");
}

#[test]
#[cfg(feature = "full")]
fn our_guest_talks_to_programs_of_a_host_with_aia() {
    our_guest_talks(&["--aia-guests", "2"], "# APLIC (MSI) and IMSIC: ");
}

/// In the guest: sends back what comes on port 22, and does what the host says on its port 52. In the
/// host: makes connections with three lives of the guest, of which it ends two by a reboot.
const LIVES: &str = r#"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/un.h>
#include <unistd.h>

enum { COUNT = 5 };

static int guest(void) {
    struct sockaddr_vm here = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 22 };
    struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 52 };
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0), control = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 10)) return 1;
    char byte = 0;
    if (fork() == 0)
        for (;;) {
            int fd = accept(listener, NULL, NULL);
            if (fork() == 0) {
                while (read(fd, &byte, 1) == 1) write(fd, &byte, 1);
                _exit(0);
            }
            close(fd);
        }
    if (connect(control, (struct sockaddr *)&host, sizeof host)) return 1;
    if (read(control, &byte, 1) != 1) return 1;
    return reboot(byte == 'r' ? RB_AUTOBOOT : RB_POWER_OFF);
}

static int dial(void) {
    struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/tmp/v.sock" };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char byte = 0;
    if (connect(fd, (struct sockaddr *)&un, sizeof un)) exit(2);
    dprintf(fd, "CONNECT 22\n");
    while (byte != '\n') if (read(fd, &byte, 1) != 1) exit(3);
    if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1 || byte != 'x') exit(4);
    return fd;
}

int main(int argc, char **argv) {
    if (argc == 1) return guest();
    struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/tmp/v.sock_52" };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    setbuf(stdout, NULL);
    if (bind(listener, (struct sockaddr *)&un, sizeof un) || listen(listener, 10)) return 1;
    for (int life = 0; life < 3; life++) {
        int fds[COUNT + 1], ended = 0, open = 0;
        fds[COUNT] = accept(listener, NULL, NULL);
        FILE *pid = fopen("/tmp/pid", "r");
        char path[40] = "/proc/", byte;
        if (!pid || fscanf(pid, "%20s", path + 6) != 1) return 5;
        fclose(pid);
        DIR *dir = opendir(strcat(path, "/fd"));
        while (readdir(dir)) open++;
        closedir(dir);
        for (int i = 0; i < COUNT; i++) fds[i] = dial();
        if (write(fds[COUNT], life < 2 ? "r" : "o", 1) != 1) return 6;
        // Each ends, with or without an error.
        for (int i = 0; i <= COUNT; i++) ended += read(fds[i], &byte, 1) <= 0, close(fds[i]);
        printf("life: %d ended, %d descriptors\n", ended, open);
    }
    return 0;
}
"#;

#[test]
fn a_reboot_ends_all_connections_and_the_next_life_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let lives = linux::program(folder.path(), "lives", LIVES);
    let bin = folder.path().join("root/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(&lives, bin.join("lives")).unwrap();
    let init = format!("{BEGIN}lives\npoweroff -f\n");
    let initramfs = linux::initramfs(folder.path(), "host", &init);
    let script = format!(
        "{} host & host=$!
         {} run --accel kvm --memory 256M --kernel {} --initrd {} --serial null --pidfile /tmp/pid \
             --cmdline 'console=hvc0 quiet' --vsock path=/tmp/v.sock </dev/null
         echo status=$?
         wait $host; echo host=$?
         ls /tmp/v.sock",
        lives.display(),
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    let mut command = lab::lab(&[], &[folder.path()]);
    let output = run(
        command.args(["sh", "-c", &format!("{{ {script}\n}} 2>&1")]),
        b"",
    );
    let text = text(&output);
    let lives = text
        .lines()
        .filter(|line| line.starts_with("life: 6 ended, "));
    let lives: Vec<_> = lives.collect();
    assert_eq!(lives.len(), 3, "{text}");
    assert!(lives.iter().all(|it| *it == lives[0]), "{text}");
    for part in ["status=0", "host=0", "/tmp/v.sock: No such file"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// The program's bytes.
fn bytes(mut state: u64, total: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < total {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(total);
    bytes
}

/// The host's side of a connection, as in the program.
fn exchange(mut stream: UnixStream, total: usize, own: u64, other: u64) {
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&bytes(own, total)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == bytes(other, total), "{} bytes", got.len());
}

#[test]
fn debian_talks_to_programs_of_the_host_under_qemu() {
    const TOTAL: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let script = "
talk vdial 53 1 0
talk vdial 52 1 1048576
talk vlisten 22 1 1048576
";
    let (initramfs, _) = guest(folder.path(), script);
    let path = folder.path().join("v.sock");
    let listener = UnixListener::bind(folder.path().join("v.sock_52")).unwrap();
    let accepted = thread::spawn(move || exchange(listener.accept().unwrap().0, TOTAL, 1, 2));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hartvisor"));
    command
        .args([
            "run", "--accel", "qemu", "--memory", "512M", "--serial", "null",
        ])
        .args(["--cmdline", "console=hvc0 quiet", "--kernel"])
        .arg(host_file("vmlinux"))
        .arg("--initrd")
        .arg(initramfs)
        .arg("--vsock")
        .arg(format!("path={}", path.display()));
    let mut session = Session::start(&command);
    session.expect("connect: Connection reset by peer", 300);
    session.expect("vdial: 1 of 1048576 bytes each way", 300);
    accepted.join().unwrap();
    session.expect("vlisten: listens", 300);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"CONNECT 22\n").unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"OK 1073741824\n");
    exchange(stream, TOTAL, 2, 1);
    let (status, text) = session.end(300);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("vlisten: 1 of 1048576 bytes each way"),
        "{text}"
    );
    assert!(!path.exists());
}
