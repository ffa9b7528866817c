//! Debian's kernel as a guest in the emulated host, with commands of the host around it.

use std::path::Path;

use super::lab::{self, hartvisor, host_file, run, text};
use super::linux;

/// Runs Debian's kernel in the host with `options` and the init program `init`, with the commands of
/// the host `begin` before its start and `end` after it. They have `$hartvisor`, and those after the start also
/// `$vmm` and `said TEXT`, which waits until the guest says that or ends. Returns what all of them
/// say, and then what the guest says. The host sees `folder`.
pub fn debian(
    folder: &Path,
    host: &[&str],
    options: &str,
    [begin, init, end]: [&str; 3],
) -> String {
    let initramfs = linux::initramfs(folder, "host", init);
    let script = format!(
        "hartvisor={}
         {begin}
         $hartvisor run --accel kvm --kernel {} --initrd {} --serial null \
             --cmdline 'console=hvc0 quiet' {options} </dev/null >/tmp/out 2>&1 & vmm=$!
         said() {{ until grep -q \"$1\" /tmp/out || ! kill -0 $vmm 2>/dev/null; do sleep 0.2; done; }}
         {end}
         cat /tmp/out",
        hartvisor().display(),
        host_file("vmlinux").display(),
        initramfs.display(),
    );
    shell(host, folder, &script)
}

/// Runs a script in the emulated host, which sees `folder`. Returns its output.
pub fn shell(host: &[&str], folder: &Path, script: &str) -> String {
    let mut command = lab::lab(host, &[folder]);
    let output = run(command.args(["sh", "-c", &format!("{script} 2>&1")]), b"");
    text(&output)
}

/// Asserts that `text` has each of these parts.
#[track_caller]
pub fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// The rest of the line that begins with `who`.
#[track_caller]
pub fn said<'t>(text: &'t str, who: &str) -> &'t str {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(who));
    line.unwrap_or_else(|| panic!("no line {who:?} in {text}"))
}
