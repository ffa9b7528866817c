//! The errors of the monitor: one enum, the offending value in every text, and the exit status each one means.

use std::io;
use std::path::PathBuf;

/// Everything that can end `hartvisor` without the guest having asked for it.
///
/// The texts read as one line; a `#[source]` is never repeated in them, since [`Error::chain`] prints it after a colon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line cannot be understood.
    #[error("{0}")]
    Usage(String),

    /// `HARTVISOR_LOG` holds something else than a level.
    #[error("HARTVISOR_LOG is {0:?}, expected one of: off, error, warn, info, debug, trace")]
    LogLevel(String),

    /// A file named by the user cannot be opened.
    #[error("cannot open {what} {path:?}")]
    Open {
        /// What the file is for: "kernel", "initrd", "disk".
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A disk cannot be opened for writing, though it may be readable.
    #[error(
        "cannot open disk {path:?} for writing (to share it unwritten, give {path:?},readonly)"
    )]
    OpenWritable {
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A path names a directory, a pipe, or something else that cannot serve.
    #[error("{what} {path:?} is {kind}, expected {wanted}")]
    FileType {
        /// What the file is for.
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What it is: "a directory", "a pipe", …
        kind: &'static str,
        /// What would serve.
        wanted: &'static str,
    },

    /// A file that must hold something holds nothing.
    #[error("{what} {path:?} is empty")]
    EmptyFile {
        /// What the file is for.
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
    },

    /// A kernel or an initrd is not what was checked and placed any more.
    #[error("{what} {path:?} was written to since it was opened: start again to boot the new one")]
    FileChanged {
        /// What the file is for.
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
    },

    /// A file could be opened, but not read to its end.
    #[error("cannot read {what} {path:?}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A file named by the user cannot be written.
    #[error("cannot write {what} {path:?}")]
    Write {
        /// What the file is for: "the device tree to", "the process id to".
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The device tree that the user gave is none that a guest could get.
    #[error("device tree {path:?}: {problem}")]
    Dtb {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong, with the values.
        problem: String,
    },

    /// The configuration file cannot be understood.
    #[error("config {path:?}: {problem}")]
    Config {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// A recording cannot be made or shown.
    #[cfg(feature = "observe")]
    #[error(transparent)]
    Observe(observe::Error),

    /// The pidfile is not ours to write.
    #[error("pidfile {path:?}: {problem}")]
    PidFile {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The kernel file is recognised, and is not one that a RISC-V guest can start from.
    #[error("kernel {path:?} is {found}: {advice}")]
    KernelFormat {
        /// The path as the user gave it.
        path: PathBuf,
        /// What it is: "an ELF for x86_64", "xz-compressed", …
        found: String,
        /// What would be right.
        advice: &'static str,
    },

    /// The kernel file ends before what its own headers promise.
    #[error(
        "kernel {path:?} is truncated: its {part} ends at byte {end}, the file has {length} bytes"
    )]
    KernelTruncated {
        /// The path as the user gave it.
        path: PathBuf,
        /// Which part is cut off.
        part: String,
        /// Where that part ends, in bytes from the start of the file.
        end: u64,
        /// The length of the file in bytes.
        length: u64,
    },

    /// The kernel's headers contradict themselves.
    #[error("kernel {path:?}: {problem}")]
    KernelHeader {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong, with the values.
        problem: String,
    },

    /// The kernel is compressed, and unpacked it is more than the guest's RAM.
    #[error(
        "kernel {path:?}: unpacked from {packing} it has more than {memory}, all of the guest's RAM: raise --memory"
    )]
    KernelUnpacked {
        /// The path as the user gave it.
        path: PathBuf,
        /// How it is compressed: "gzip", "zstd".
        packing: &'static str,
        /// The RAM in the way a user writes it.
        memory: String,
    },

    /// The kernel is compressed, and what was in it is wrong.
    #[error("unpacked from {packing}, {length} bytes")]
    InUnpacked {
        /// How it was compressed.
        packing: &'static str,
        /// How many bytes were in it.
        length: u64,
        /// What is wrong with them.
        #[source]
        source: Box<Error>,
    },

    /// A part of the kernel has its place outside RAM.
    #[error(
        "kernel {path:?}: its {part} belongs at {start:#x}..{end:#x}, outside RAM ({ram_start:#x}..{ram_end:#x}, --memory {memory}): {advice}"
    )]
    KernelOutsideRam {
        /// The path as the user gave it.
        path: PathBuf,
        /// Which part.
        part: String,
        /// First guest physical address of the part.
        start: u64,
        /// First guest physical address after the part.
        end: u64,
        /// First guest physical address of RAM.
        ram_start: u64,
        /// First guest physical address after RAM.
        ram_end: u64,
        /// The RAM in the way a user writes it.
        memory: String,
        /// What would be right.
        advice: &'static str,
    },

    /// The kernel fits into RAM, what must lie beside it does not.
    #[error(
        "{what} needs {need} bytes beside the kernel, the largest gap in RAM below {below:#x} has {room}: {advice}"
    )]
    NoRoom {
        /// What found no place: "initrd …", "device tree".
        what: String,
        /// Its size in bytes.
        need: u64,
        /// The size of the largest gap in bytes.
        room: u64,
        /// The guest physical address below which it must lie.
        below: u64,
        /// What would help.
        advice: String,
    },

    /// The kernel's place is taken by the firmware that QEMU puts into the guest.
    #[error(
        "kernel {path:?} begins at {start:#x}: under QEMU the firmware (OpenSBI) owns RAM below {firmware_end:#x}; link it there or above, or use --accel kvm"
    )]
    KernelInFirmware {
        /// The path as the user gave it.
        path: PathBuf,
        /// First guest physical address of the kernel.
        start: u64,
        /// First guest physical address after the firmware's.
        firmware_end: u64,
    },

    /// The command line is longer than the guest can keep.
    #[error("--cmdline has {length} bytes, at most {limit} are possible: {why}")]
    CommandLine {
        /// Its length in bytes.
        length: usize,
        /// The longest that is possible, in bytes.
        limit: usize,
        /// Whose limit that is.
        why: &'static str,
    },

    /// The command line would end for the guest before its end.
    #[error("--cmdline has a NUL at byte {at}, where it would end for the guest")]
    CommandLineNul {
        /// Which byte, from 0.
        at: usize,
    },

    /// The RAM asked for is none that the board can have.
    #[error("--memory {given}: {problem}")]
    Memory {
        /// The RAM in the way a user writes it.
        given: String,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// The RAM asked for is more than the host has, RAM and swap together.
    #[error("--memory {given}: this host has {available} of RAM and swap; give less than that")]
    HostMemory {
        /// The RAM in the way a user writes it.
        given: String,
        /// RAM and swap of the host, likewise.
        available: String,
    },

    /// The number of vCPUs is not one that can run.
    #[error("--cpus {given}: expected 1 to {limit}, {why}")]
    Cpus {
        /// The number asked for.
        given: u32,
        /// The most that can run.
        limit: u32,
        /// Whose limit that is: "the limit of this host's KVM", …
        why: &'static str,
    },

    /// More disks than there are virtio-mmio slots.
    #[error("{given} disks, at most {limit} fit: of {whose} {slots} virtio-mmio slots {taken}")]
    TooManyDisks {
        /// The number asked for.
        given: usize,
        /// The most that fit.
        limit: usize,
        /// Whose slots they are: "the board's", "QEMU's".
        whose: &'static str,
        /// The slots of the board.
        slots: usize,
        /// What takes the others, and what could be done.
        taken: String,
    },

    /// A disk whose length is no whole number of sectors.
    #[error(
        "disk {path:?} has {size} bytes, expected a multiple of {multiple} (truncate -s {rounded} makes it one)"
    )]
    DiskSize {
        /// The path as the user gave it.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
        /// What it should be a multiple of: a sector, with direct=on the file system's unit of direct I/O.
        multiple: u64,
        /// The next multiple of that.
        rounded: u64,
    },

    /// An image that does not look raw, and nothing was said of its format.
    #[error(
        "disk {path:?} is a {format} image by {by}, expected a raw one ({hint}qemu-img convert -O raw makes a raw one, format=raw takes its bytes as they are)"
    )]
    DiskFormat {
        /// The path as the user gave it.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
        /// What tells: "its name", "its first bytes".
        by: &'static str,
        /// What else would open it, or nothing.
        hint: &'static str,
    },

    /// A qcow2 image is damaged, or has what is not taken from one.
    #[error("disk {path:?} cannot be used as a qcow2 image (a raw one needs format=raw)")]
    DiskImage {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },

    /// The file system or block device has no direct I/O.
    #[error("disk {path:?} does not take direct I/O (leave direct=on out)")]
    DiskDirect {
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A disk could be opened for writing, and still takes no writes.
    #[error("disk {path:?} takes no writes: {why} (to use it unwritten, give {path:?},readonly)")]
    DiskReadOnly {
        /// The path as the user gave it.
        path: PathBuf,
        /// Why: "it is set read-only on this host", …
        why: &'static str,
    },

    /// This host uses the disk for something else.
    #[error("disk {path:?} is in use: {user} (lock=off uses it all the same)")]
    DiskInUse {
        /// The path as the user gave it.
        path: PathBuf,
        /// Who uses it, and for what.
        user: String,
    },

    /// Another machine uses the image.
    #[error(
        "another machine {who} disk {path:?}{process}: it has one writer or, all with readonly, any number of readers (lock=off does not ask)"
    )]
    DiskLocked {
        /// The path as the user gave it.
        path: PathBuf,
        /// What the other one does: "has", or "writes to".
        who: &'static str,
        /// Which process that is, behind a comma, if it is known.
        process: String,
    },

    /// One image twice, at least once writable: the guest would destroy it.
    #[error(
        "disks {first:?} and {second:?} are the same file, or parts of each other: only possible with readonly on both"
    )]
    DiskTwice {
        /// The path of one.
        first: PathBuf,
        /// The path of the other.
        second: PathBuf,
    },

    /// A console's file or socket cannot be made.
    #[error("{option}: cannot make {path:?}")]
    Create {
        /// The option that names it.
        option: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A socket's path is longer than the system can have.
    #[error("{option}: socket path {path:?} has {length} bytes, at most {limit} are possible")]
    SocketPath {
        /// The option that names it.
        option: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The longest that is possible, in bytes.
        limit: usize,
    },

    /// A socket is another program's.
    #[error("{option}: somebody listens at socket {path:?} already, give another path")]
    SocketInUse {
        /// The option that names it.
        option: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
    },

    /// Both consoles or ports would write over each other.
    #[error("{first} and {second} are both {target}: give each its own")]
    SameTarget {
        /// The option that came first.
        first: String,
        /// The other.
        second: String,
        /// The target as the user gave it.
        target: String,
    },

    /// Programs in the guest find a port by its name.
    #[error("two ports have the name {name:?}")]
    PortTwice {
        /// The name as the user gave it.
        name: String,
    },

    /// More ports than the console can have.
    #[error("--port is given {given} times, the virtio console has room for {limit}")]
    TooManyPorts {
        /// The number asked for.
        given: usize,
        /// The most that fit.
        limit: usize,
    },

    /// This machine is no RISC-V machine, so its KVM, if any, runs other guests.
    #[error("KVM here cannot run RISC-V guests: this machine is {arch}")]
    NotRiscv {
        /// The architecture of this machine, as Rust names it.
        arch: &'static str,
    },

    /// `/dev/kvm` is absent.
    #[error(
        "no /dev/kvm on this host: its kernel has no KVM (module kvm), or the CPU no hypervisor extension"
    )]
    NoKvm,

    /// `/dev/kvm` is there, and not for this user.
    #[error(
        "no permission to open /dev/kvm: it belongs to group {group}, add this user to it (usermod -aG {group} USER) and log in anew"
    )]
    KvmPermission {
        /// The group of the device file, by name where it has one.
        group: String,
    },

    /// KVM refused something that the guest cannot do without.
    #[error("KVM: {what}")]
    Kvm {
        /// What was asked of it.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// KVM lacks something that the guest cannot do without.
    #[error("this host's KVM lacks {what}: {why}")]
    KvmLacks {
        /// The missing thing.
        what: String,
        /// What needs it, and since which kernel it exists.
        why: &'static str,
    },

    /// An AIA was asked for, and a step of its set-up failed.
    #[error("--irqchip aia: this host's KVM cannot {step} (--irqchip auto takes a PLIC then)")]
    KvmAia {
        /// The step.
        step: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The host has not the huge pages that were asked for.
    #[error(
        "--memory hugepages=on: {needed} huge pages of 2M are needed, {free} are free (as root: echo {needed} > /proc/sys/vm/nr_hugepages)"
    )]
    HugePages {
        /// How many the guest's RAM takes.
        needed: u64,
        /// How many the host has left.
        free: u64,
    },

    /// QEMU is not installed.
    #[error(
        "no {program} to be found: install it (Debian: apt-get install qemu-system-riscv, on others perhaps qemu-system-misc), or name one in HARTVISOR_QEMU"
    )]
    NoQemu {
        /// The program looked for.
        program: String,
    },

    /// A command that is a program of its own, which was not built or installed.
    #[error(
        "hartvisor {name} is the program {file}, which is neither beside hartvisor nor on the PATH (cargo build --release --package {name} makes it)"
    )]
    NoExternal {
        /// The command.
        name: &'static str,
        /// The program.
        file: String,
    },

    /// With `--accel auto`: neither KVM nor QEMU.
    #[error("nothing here can run the guest: {kvm}")]
    Neither {
        /// Why it is not KVM.
        kvm: String,
        /// Why it is not QEMU.
        #[source]
        qemu: Box<Error>,
    },

    /// QEMU is there, and cannot be started.
    #[error("cannot start {program}")]
    QemuStart {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// QEMU is there, and older than what its exit reasons need.
    #[error(
        "{program} is version {found}, at least {needed} is needed: older ones do not say how the guest ended"
    )]
    QemuOld {
        /// The program.
        program: String,
        /// Its version.
        found: String,
        /// The first version that serves.
        needed: &'static str,
    },

    /// QEMU ended by itself, not because the guest did.
    #[error("{program} failed with {status} (its own message, if any, is above)")]
    QemuFailed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },

    /// QEMU said something over QMP that cannot be understood.
    #[error("{program} sent an unexpected QMP message: {message}")]
    Qmp {
        /// The program.
        program: String,
        /// The message, or its beginning.
        message: String,
    },

    /// The device tree cannot be written.
    #[error("cannot build the device tree")]
    Fdt(#[source] vm_fdt::Error),

    /// The device tree is larger than the room that every placement leaves for it.
    #[error("the device tree has {size} bytes, at most {limit} have room")]
    FdtSize {
        /// Its size in bytes.
        size: usize,
        /// The room in bytes.
        limit: u64,
    },

    /// The host refused something ordinary: memory, a thread, a descriptor.
    #[error("cannot {what}")]
    Host {
        /// What was asked of it, as a verb: "start the thread of vCPU 0".
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// Something that this program promised itself does not hold.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// The exit status of `hartvisor` for this error: 2 usage or bad input, 3 this host cannot, 4 our own failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::InUnpacked { source, .. } => source.exit_code(),
            #[cfg(feature = "observe")]
            Error::Observe(_) => 2,
            Error::Usage(_)
            | Error::LogLevel(_)
            | Error::Open { .. }
            | Error::OpenWritable { .. }
            | Error::FileType { .. }
            | Error::EmptyFile { .. }
            | Error::FileChanged { .. }
            | Error::Write { .. }
            | Error::Dtb { .. }
            | Error::Config { .. }
            | Error::PidFile { .. }
            | Error::KernelFormat { .. }
            | Error::KernelTruncated { .. }
            | Error::KernelHeader { .. }
            | Error::KernelUnpacked { .. }
            | Error::KernelOutsideRam { .. }
            | Error::NoRoom { .. }
            | Error::KernelInFirmware { .. }
            | Error::CommandLine { .. }
            | Error::CommandLineNul { .. }
            | Error::Memory { .. }
            | Error::Cpus { .. }
            | Error::TooManyDisks { .. }
            | Error::DiskSize { .. }
            | Error::DiskFormat { .. }
            | Error::DiskImage { .. }
            | Error::DiskDirect { .. }
            | Error::DiskReadOnly { .. }
            | Error::DiskInUse { .. }
            | Error::DiskLocked { .. }
            | Error::DiskTwice { .. }
            | Error::Create { .. }
            | Error::SocketPath { .. }
            | Error::SocketInUse { .. }
            | Error::SameTarget { .. }
            | Error::PortTwice { .. }
            | Error::TooManyPorts { .. } => 2,
            Error::HostMemory { .. }
            | Error::NotRiscv { .. }
            | Error::NoKvm
            | Error::KvmPermission { .. }
            | Error::KvmLacks { .. }
            | Error::KvmAia { .. }
            | Error::HugePages { .. }
            | Error::NoQemu { .. }
            | Error::NoExternal { .. }
            | Error::Neither { .. }
            | Error::QemuOld { .. } => 3,
            Error::Read { .. }
            | Error::Kvm { .. }
            | Error::QemuStart { .. }
            | Error::QemuFailed { .. }
            | Error::Qmp { .. }
            | Error::Fdt(_)
            | Error::FdtSize { .. }
            | Error::Host { .. }
            | Error::Internal(_) => 4,
        }
    }

    /// This error and its sources in one line, joined by ": ".
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            line.push_str(": ");
            line.push_str(&source.to_string());
            next = source.source();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_the_file_once_and_ends_with_the_cause() {
        let error = Error::Open {
            what: "kernel",
            path: PathBuf::from("a b"),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        };
        assert_eq!(
            error.chain(),
            "cannot open kernel \"a b\": No such file or directory (os error 2)"
        );
        assert_eq!(error.exit_code(), 2);
    }
}
