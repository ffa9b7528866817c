//! The QEMU command line of a machine: pure, so that it can be shown and tested.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use devices::block;

use crate::config::{DiskFormat, Irqchip, Target, double_commas};
use crate::error::Error;
use crate::isa::Switch;
use crate::layout::KERNEL_BASE;
use crate::loader::Format;
use crate::machine::{Disk, Machine};
use crate::size;

/// The environment variable that names another QEMU.
const PROGRAM_VARIABLE: &str = "HARTVISOR_QEMU";

/// The QEMU to run.
pub fn program() -> OsString {
    std::env::var_os(PROGRAM_VARIABLE)
        .filter(|program| !program.is_empty())
        .unwrap_or_else(|| "qemu-system-riscv64".into())
}

/// Refuses what only QEMU cannot run: RAM below the kernel's usual place is the firmware's there.
pub(super) fn check(machine: &Machine) -> Result<(), Error> {
    let lowest = machine
        .kernel
        .segments()
        .first()
        .map_or(KERNEL_BASE, |segment| segment.address);
    match machine.kernel.format() {
        // QEMU puts an Image behind its firmware, wherever that ends.
        Format::Image => Ok(()),
        _ if lowest >= KERNEL_BASE => Ok(()),
        _ => Err(Error::KernelInFirmware {
            path: machine.kernel.path().into(),
            start: lowest,
            firmware_end: KERNEL_BASE,
        }),
    }
}

/// QEMU's front ends of our devices: a disk, random numbers.
pub(super) const FRONT_ENDS: [&str; 2] = ["vhost-user-blk", "vhost-user-rng"];

/// Whose disks and random numbers QEMU shows to its guest.
#[derive(Debug)]
pub enum Devices<'a> {
    /// Its own.
    Qemu,
    /// Ours, where it finds them (`path=…` or `fd=…`): the disks as they were given, and behind them the random numbers.
    Ours(&'a [OsString]),
}

/// The arguments for a machine: the same devices in the same places as under KVM; `kernel` is the file to start.
pub fn arguments(machine: &Machine, kernel: &Path, devices: &Devices<'_>) -> Vec<OsString> {
    let mut line = Line::default();
    let memory = size::show(machine.config.memory.size);
    // As under KVM, where an AIA is an APLIC in MSI mode with IMSICs; auto is QEMU's own default.
    let mut board = match machine.config.irqchip {
        Irqchip::Aia => "virt,aia=aplic-imsic",
        Irqchip::Auto | Irqchip::Plic => "virt",
    }
    .to_owned();
    let ours: &[OsString] = match devices {
        Devices::Qemu => &[],
        Devices::Ours(addresses) => addresses,
    };
    if !ours.is_empty() {
        // A file in memory, which we map too; sealed, so that it cannot shrink under us.
        board += ",memory-backend=ram";
        let memory = format!("memory-backend-memfd,id=ram,size={memory},share=on,seal=on");
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
    // Only what is named here, no window.
    line.add(["-nodefaults", "-no-user-config", "-display", "none"]);
    if machine.config.no_reboot.is_some() {
        line.add(["-no-reboot"]);
    }
    // Virtio 1, not the legacy interface that QEMU's virtio-mmio shows otherwise.
    line.add(["-global", "virtio-mmio.force-legacy=false"]);
    line.consoles(machine);
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
    // QEMU lists the slots backwards in its device tree. So the first disk goes into the highest slot, and a guest that
    // numbers disks as it finds them (/dev/vda, …) numbers them alike here and under KVM.
    for (index, (disk, slot)) in machine
        .disks
        .iter()
        .zip((1..=machine.disks.len()).rev())
        .enumerate()
    {
        match ours.get(index) {
            Some(address) => line.our_disk(index, disk, address, slot),
            None => line.disk(index, disk, slot),
        }
    }
    let slot = machine.disks.len() + 1;
    match ours.get(machine.disks.len()) {
        Some(address) if machine.config.rng => {
            line.socket("rng", address);
            let device = format!("vhost-user-rng,chardev=rng,bus=virtio-mmio-bus.{slot}");
            line.add(["-device", &device]);
        }
        _ if machine.config.rng => {
            let device = format!("virtio-rng-device,rng=rng,bus=virtio-mmio-bus.{slot}");
            line.add(["-object", "rng-builtin,id=rng", "-device", &device]);
        }
        _ => {}
    }
    line.0
}

/// What is added for a run of ours: QMP over an inherited socket, to wait there for its word to begin, and no escape key
/// unless it is a user who types: what comes from a file or a pipe passes unchanged.
pub(super) fn run_arguments(socket: &OwnedFd, typed: bool) -> Vec<OsString> {
    let mut line = Line::default();
    let chardev = format!("socket,id=qmp,fd={}", socket.as_raw_fd());
    line.add([
        "-S",
        "-chardev",
        &chardev,
        "-mon",
        "chardev=qmp,mode=control",
    ]);
    if !typed {
        // No byte has this value.
        line.add(["-echr", "0x100"]);
    }
    line.0
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add<const N: usize, T: AsRef<OsStr>>(&mut self, arguments: [T; N]) {
        self.0
            .extend(arguments.iter().map(|argument| argument.as_ref().into()));
    }

    /// The virtio console, the serial port (which is the firmware's, too) and what they lead to. Where both are the
    /// terminal, Ctrl-a c changes which of them has the keys.
    fn consoles(&mut self, machine: &Machine) {
        self.chardev("console", &machine.config.console);
        let serial = match (&machine.config.console, &machine.config.serial) {
            (Target::Stdio, Target::Stdio) => "console",
            (_, serial) => {
                self.chardev("serial", serial);
                "serial"
            }
        };
        self.add([
            "-serial",
            &format!("chardev:{serial}"),
            "-device",
            "virtio-serial-device,bus=virtio-mmio-bus.0",
            "-device",
            "virtconsole,chardev=console",
        ]);
        for (index, port) in machine.config.ports.iter().enumerate() {
            let id = format!("port{index}");
            // QEMU's own null counts as nobody there, for whom a writer in the guest would wait.
            match &port.target {
                Target::Null => self.chardev(&id, &Target::File("/dev/null".into())),
                target => self.chardev(&id, target),
            }
            let mut device = OsString::from(format!("virtserialport,chardev={id},name="));
            device.push(double_commas(OsStr::new(&port.name)));
            self.add([OsStr::new("-device"), &device]);
        }
    }

    fn chardev(&mut self, id: &str, target: &Target) {
        let (backend, path) = match target {
            // Only a multiplexed one has escape keys.
            Target::Stdio => ("stdio,mux=on,signal=off", None),
            Target::Pty => ("pty", None),
            Target::Null => ("null", None),
            Target::File(path) => ("file", Some(path)),
            Target::Socket(path) => ("socket,server=on,wait=off", Some(path)),
        };
        let mut value = OsString::from(format!("{backend},id={id}"));
        if let Some(path) = path {
            value.push(",path=");
            value.push(double_commas(path.as_os_str()));
        }
        self.add([OsStr::new("-chardev"), &value]);
    }

    fn socket(&mut self, id: &str, address: &OsStr) {
        let mut socket = OsString::from(format!("socket,id={id},"));
        socket.push(address);
        self.add([OsStr::new("-chardev"), &socket]);
    }

    /// All that is to be known of a disk of ours its back end says, but for its queues.
    fn our_disk(&mut self, index: usize, disk: &Disk, address: &OsStr, slot: usize) {
        self.socket(&format!("disk{index}"), address);
        let (size, count) = (block::QUEUE_SIZE, disk.queues);
        let device = format!(
            "vhost-user-blk,chardev=disk{index},queue-size={size},num-queues={count},bus=virtio-mmio-bus.{slot}"
        );
        self.add(["-device", &device]);
    }

    fn disk(&mut self, index: usize, disk: &Disk, slot: usize) {
        let block_device = disk
            .file
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_block_device());
        let driver = if block_device { "host_device" } else { "file" };
        let readonly = if disk.config.readonly { "on" } else { "off" };
        let format = match disk.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        };
        // Not -drive file=: there a name such as nbd:a would be a protocol.
        let direct = if disk.config.direct {
            ",cache.direct=on"
        } else {
            ""
        };
        let locking = if disk.config.lock {
            ""
        } else {
            ",file.locking=off"
        };
        let mut blockdev = OsString::from(format!(
            "driver={format},node-name=disk{index},read-only={readonly},discard=unmap{direct}{locking},file.driver={driver},file.filename="
        ));
        blockdev.push(double_commas(disk.config.path.as_os_str()));
        let mut device = OsString::from(format!(
            "virtio-blk-device,drive=disk{index},bus=virtio-mmio-bus.{slot}"
        ));
        if let Some(serial) = &disk.config.serial {
            device.push(",serial=");
            device.push(double_commas(OsStr::new(serial)));
        }
        if disk.config.block_size != 512 {
            let size = disk.config.block_size;
            device.push(format!(
                ",logical_block_size={size},physical_block_size={size}"
            ));
        }
        if disk.config.write_through {
            device.push(",write-cache=off");
        }
        if disk.queues > 1 {
            device.push(format!(",num-queues={}", disk.queues));
        }
        self.add([
            OsStr::new("-blockdev"),
            &blockdev,
            OsStr::new("-device"),
            &device,
        ]);
    }
}

/// A command for a POSIX shell: quoted where needed, one option with its value on a line.
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
    fn commas_are_doubled_and_other_bytes_kept() {
        assert_eq!(
            double_commas(OsStr::from_bytes(b"a,b,,\xff")),
            OsStr::from_bytes(b"a,,b,,,,\xff")
        );
    }

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
