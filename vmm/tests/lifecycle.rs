//! Start and end of a run on RISC-V KVM as seen from outside: pidfile, signals, configuration file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

mod support;

use support::lab::{self, guest, hartvisor, run, text};

/// Returns the values of all lines `name=value`.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.trim().strip_prefix(name)?.strip_prefix('=');
    text.lines().filter_map(value).collect()
}

#[test]
fn signals_end_the_vm_in_order_and_the_pidfile_tells_whom_to_signal() {
    let script = format!(
        "run='{} run --accel kvm --kernel {} --cmdline echo --pidfile /tmp/pid'
         for signal in TERM HUP; do
             mkfifo /tmp/in /tmp/out
             $run </tmp/in >/tmp/out & vmm=$!
             exec 3>/tmp/in 4</tmp/out; read -r line <&4; echo said=$line
             [ $(cat /tmp/pid) = $vmm ] && echo pid=right
             $run </dev/null; echo second=$?
             kill -INT $vmm # a shell has what runs in the background ignore it
             kill -$signal $(cat /tmp/pid); wait $vmm; echo status=$?
             [ -e /tmp/pid ] || echo pidfile=gone
             exec 3>&- 4<&-; rm /tmp/in /tmp/out
         done
         echo 4194304999 >/tmp/pid # as a killed process leaves it
         mkfifo /tmp/out
         {{ read -r line; echo said=$line; kill -INT $(cat /tmp/pid); cat; }} </tmp/out &
         $run </dev/null >/tmp/out; echo status=$?
         [ -e /tmp/pid ] || echo pidfile=gone\n",
        hartvisor().display(),
        guest().display()
    );
    let output = run(lab::lab(&[], &[]).args(["sh", "-c", &script]), b"");
    let text = text(&output);
    assert_eq!(values(&text, "status"), ["143", "129", "130"], "{text}");
    assert_eq!(values(&text, "pid"), ["right"; 2], "{text}");
    assert_eq!(values(&text, "second"), ["2"; 2], "{text}");
    assert_eq!(values(&text, "pidfile"), ["gone"; 3], "{text}");
    assert_eq!(text.matches("runs with it, name another file").count(), 2);
    assert_eq!(text.matches("echo: what you type").count(), 3, "{text}");
}

#[test]
fn a_configuration_file_describes_a_vm() {
    let folder = tempfile::tempdir().unwrap();
    let (toml, json) = (folder.path().join("vm.toml"), folder.path().join("vm.json"));
    let disk = folder.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let (guest, disk) = (guest(), disk.display());
    let guest = guest.display();
    fs::write(
        &toml,
        format!("kernel = '{guest}'\naccel = 'kvm'\ncmdline = 'no-such-mode'\ncpus = 2\ndisk = ['{disk},readonly']\n"),
    )
    .unwrap();
    fs::write(
        &json,
        format!("{{\"kernel\": \"{guest}\", \"accel\": \"kvm\", \"cmdline\": \"no-such-mode\"}}"),
    )
    .unwrap();
    let (hartvisor, toml, json) = (hartvisor(), toml.display(), json.display());
    let hartvisor = hartvisor.display();
    // The guest fails in an unknown mode and powers off in a known one.
    let script = format!(
        "for config in {toml} {json}; do
             {hartvisor} run --config $config </dev/null; echo status=$?
             {hartvisor} run --cmdline poweroff --config $config </dev/null; echo status=$?
         done\n"
    );
    let output = run(
        lab::lab(&[], &[folder.path()]).args(["sh", "-c", &script]),
        b"",
    );
    let text = text(&output);
    assert_eq!(values(&text, "status"), ["1", "0", "1", "0"], "{text}");
}
