//! The QEMU command line of a machine. A pure function, so that it can be printed and tested.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::error::QemuError;
use crate::board::Line;
use crate::board::slots::{self, Sockets};
use crate::config::{HugePages, Irqchip, Net};
use crate::error::Error;
use crate::host::hugepages;
use crate::isa::Switch;
use crate::layout::KERNEL_BASE;
use crate::loader::Format;
use crate::machine::Machine;
use crate::size;

/// The environment variable that selects another QEMU.
const PROGRAM_VARIABLE: &str = "HARTVISOR_QEMU";

/// Returns the QEMU program to run.
pub fn program() -> OsString {
    std::env::var_os(PROGRAM_VARIABLE)
        .filter(|program| !program.is_empty())
        .unwrap_or_else(|| "qemu-system-riscv64".into())
}

/// Rejects machines that QEMU cannot run: more devices than its board has slots, options for KVM
/// only, and a kernel below the usual address, where QEMU's firmware is.
///
/// # Errors
/// The first of these that applies.
pub fn check(machine: &Machine) -> Result<(), Error> {
    slots::check(&machine.config, slots::QEMU)?;
    if !machine.config.sbi.is_empty() {
        let why = "its firmware decides which SBI extensions there are";
        return Err(Error::from(QemuError::KvmOnly { option: "--sbi", why }));
    }
    let mut limits = machine.config.nets.iter().filter_map(Net::limit);
    if let Some(option) = limits.next() {
        let why = "its network devices have no limits";
        return Err(Error::from(QemuError::KvmOnly { option, why }));
    }
    let mut served = machine.config.nets.iter().filter(|net| net.vhost_user);
    if served.any(Net::starts_passt) {
        let problem = "--net passt,vhost-user=on: QEMU reaches such a passt by a path only: start passt --vhost-user --socket PATH, and give --net passt=PATH,vhost-user=on";
        return Err(Error::Usage(problem.into()));
    }
    let lowest = machine
        .kernel
        .segments()
        .first()
        .map_or(KERNEL_BASE, |segment| segment.address);
    match machine.kernel.format() {
        // QEMU places an Image behind its firmware, wherever that ends.
        Format::Image => Ok(()),
        _ if lowest >= KERNEL_BASE => Ok(()),
        _ => Err(Error::from(QemuError::InFirmware {
            path: machine.kernel.path().into(),
            start: lowest,
            firmware_end: KERNEL_BASE,
        })),
    }
}

/// Which program implements QEMU's virtio devices.
#[derive(Debug)]
pub enum Devices<'a> {
    /// QEMU.
    Qemu,
    /// Hartvisor. Their vhost-user addresses (`path=…` or `fd=…`), in slot order.
    Ours(&'a [OsString]),
}

/// Returns the arguments for a machine whose consoles have their back ends in QEMU.
pub fn arguments(machine: &Machine, kernel: &Path, devices: &Devices<'_>) -> Vec<OsString> {
    carried(machine, kernel, devices, None)
}

/// Returns the arguments for a machine: the same devices at the same addresses as under KVM.
/// `kernel` is the file to start. With `hugepages=auto` they depend on the host's free pages.
/// `consoles` are the back ends of the consoles and their ports, unless QEMU has them.
pub(super) fn carried(
    machine: &Machine,
    kernel: &Path,
    devices: &Devices<'_>,
    consoles: Option<&Sockets>,
) -> Vec<OsString> {
    let mut line = Line::default();
    let ram = &machine.config.memory;
    let memory = size::show(ram.size);
    let mut keys = String::new();
    let huge = match ram.hugepages {
        HugePages::On => true,
        HugePages::Off => false,
        HugePages::Auto => hugepages::check(ram.size).is_ok(),
    };
    if huge {
        keys += ",hugetlb=on,hugetlbsize=2M";
    }
    if ram.prealloc {
        keys += ",prealloc=on";
    }
    // As under KVM, where an AIA is an APLIC in MSI mode with IMSICs. QEMU's default is right for
    // auto.
    let mut board = match machine.config.irqchip {
        Irqchip::Aia => "virt,aia=aplic-imsic",
        Irqchip::Auto | Irqchip::Plic => "virt",
    }
    .to_owned();
    let ours: &[OsString] = match devices {
        Devices::Qemu => &[],
        Devices::Ours(addresses) => addresses,
    };
    if !ours.is_empty() || !keys.is_empty() || ram.shared {
        // A memfd that the back ends map, too. It is sealed so that it cannot shrink.
        board += ",memory-backend=ram";
        let memory = format!("memory-backend-memfd,id=ram,size={memory},share=on,seal=on{keys}");
        line.add(["-object", &memory]);
    }
    line.add([
        "-machine",
        &board,
        "-accel",
        "tcg",
        "-smp",
        &machine.config.cpus.to_string(),
        "-m",
        &memory,
    ]);
    if !machine.config.isa.is_empty() {
        let switch = |it: &Switch| format!(",{}={}", it.name, it.on);
        let switches: String = machine.config.isa.iter().map(switch).collect();
        line.add(["-cpu", &format!("rv64{switches}")]);
    }
    // Only the devices named here, and no window.
    line.add(["-nodefaults", "-no-user-config", "-display", "none"]);
    if machine.config.no_reboot.is_some() {
        line.add(["-no-reboot"]);
    }
    // Virtio 1.x, not the legacy interface that is the default of QEMU's virtio-mmio.
    line.add(["-global", "virtio-mmio.force-legacy=false"]);
    line.add([OsStr::new("-kernel"), kernel.as_os_str()]);
    if let Some(initrd) = &machine.initrd {
        line.add([OsStr::new("-initrd"), initrd.path.as_os_str()]);
    }
    if let Some(dtb) = &machine.dtb {
        line.add([OsStr::new("-dtb"), dtb.path.as_os_str()]);
    }
    if !machine.config.cmdline.is_empty() {
        line.add(["-append", &machine.config.cmdline]);
    }
    let mut ours = ours.iter();
    for slot in slots::slots(&machine.config) {
        let served = if slot.is_served() { ours.next() } else { None };
        slot.qemu(
            &mut line,
            machine,
            served.map(OsString::as_os_str),
            consoles,
        );
    }
    line.0
}

/// Returns the additional arguments of a run: QMP over an inherited socket, and start paused.
pub(super) fn run_arguments(socket: &OwnedFd) -> Vec<OsString> {
    let mut line = Line::default();
    let chardev = format!("socket,id=qmp,fd={}", socket.as_raw_fd());
    line.add([
        "-S",
        "-chardev",
        &chardev,
        "-mon",
        "chardev=qmp,mode=control",
        // No byte has this value: QEMU has no escape key.
        "-echr",
        "0x100",
    ]);
    line.0
}

/// Formats a command for a POSIX shell: quoted where needed, one option with its value per line.
pub fn shell_line(program: &OsStr, arguments: &[OsString]) -> OsString {
    let mut line = quoted(program);
    for argument in arguments {
        line.push(if argument.as_bytes().starts_with(b"-") {
            " \\\n  "
        } else {
            " "
        });
        line.push(quoted(argument));
    }
    line
}

fn quoted(word: &OsStr) -> OsString {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=+,./:@%".contains(byte);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.into();
    }
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let words = [
            "plain",
            "",
            "two words",
            "it's",
            "a$b`c\\d\"e",
            "x;y",
            "*",
            "~",
            "é",
            "-n",
        ]
        .map(OsString::from);
        let mut script = OsString::from("printf '%s\\n' x");
        for word in &words {
            script.push(" ");
            script.push(quoted(word));
        }
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(&script)
            .output()
            .unwrap();
        let expected = format!(
            "x\n{}\n",
            words.map(|word| word.into_string().unwrap()).join("\n")
        );
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            expected,
            "{script:?}"
        );
    }
}
