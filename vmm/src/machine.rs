//! The machine that was asked for: everything checked and opened, before any guest starts.

use std::path::PathBuf;

use devices::console::PORTS_MAX;
use nix::sys::sysinfo::sysinfo;

use crate::cli::{self, HugePages, Irqchip, MemoryOption, PortOption};
use crate::disk;
pub use crate::disk::Disk;
use crate::dtb::Dtb;
use crate::error::Error;
use crate::isa::Switch;
use crate::layout::{MAX_CPUS, MAX_MEMORY, MEMORY_ALIGN, MIN_MEMORY};
use crate::loader::{self, Format, Initrd, Kernel, Placement};
use crate::port::Target;
use crate::size;

/// A machine that can be started: by KVM or by QEMU.
#[derive(Debug)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The kernel's command line, unchanged, without NUL.
    pub cmdline: String,
    /// The user's own device tree, instead of the one that describes the machine.
    pub dtb: Option<Dtb>,
    /// Where to write the guest's device tree, instead of running the guest.
    pub dump_dtb: Option<PathBuf>,
    /// Number of vCPUs, from 1.
    pub cpus: u32,
    /// RAM in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// What the host makes it of.
    pub backing: MemoryOption,
    /// What takes interrupts to the harts.
    pub irqchip: Irqchip,
    /// ISA extensions that the guest is to have or not to have.
    pub isa: Vec<Switch>,
    /// SBI extensions, likewise.
    pub sbi: Vec<Switch>,
    /// The disks, in the order of their virtio-mmio slots (from slot 1).
    pub disks: Vec<Disk>,
    /// Whether there is a virtio source of random numbers, in the slot after the last disk.
    pub rng: bool,
    /// What the virtio console leads to.
    pub console: Target,
    /// What the serial port and the SBI console lead to.
    pub serial: Target,
    /// Further ports of the virtio console.
    pub ports: Vec<PortOption>,
    /// Whose disks and random numbers a guest under QEMU has.
    pub devices: cli::Devices,
    /// A guest that reboots ends the run instead of starting anew.
    pub no_reboot: bool,
    /// Where kernel, initrd and device tree lie when no firmware decides that.
    pub placement: Placement,
}

impl Machine {
    /// Checks and opens everything that `options` name.
    pub fn new(options: &cli::Run) -> Result<Machine, Error> {
        // Where only the device tree is wanted, no terminal is taken and no file emptied for a guest that does not run.
        let console = |target: &Target| match options.dump_dtb {
            Some(_) => Target::Null,
            None => target.clone(),
        };
        check_cpus(options.cpus)?;
        check_memory(options.memory)?;
        let memory = options.memory.size;
        let kernel = Kernel::open(&options.kernel, memory)?;
        check_cmdline(&options.cmdline, kernel.format())?;
        let initrd = options.initrd.as_deref().map(Initrd::open).transpose()?;
        let disks = disk::open(&options.disks, !options.no_rng, options.cpus)?;
        check_consoles(options)?;
        let placement = loader::place(&kernel, initrd.as_ref().map(|initrd| initrd.size), memory)?;
        let dtb = options
            .dtb
            .as_deref()
            .map(|path| Dtb::open(path, &options.cmdline, placement.initrd.as_ref()));
        Ok(Machine {
            kernel,
            initrd,
            cmdline: options.cmdline.clone(),
            dtb: dtb.transpose()?,
            dump_dtb: options.dump_dtb.clone(),
            cpus: options.cpus,
            memory,
            backing: options.memory,
            irqchip: options.irqchip,
            isa: options.isa.clone(),
            sbi: options.sbi.clone(),
            disks,
            rng: !options.no_rng,
            console: console(&options.console),
            serial: console(&options.serial),
            ports: if options.dump_dtb.is_some() {
                Vec::new()
            } else {
                options.ports.clone()
            },
            devices: options.devices,
            no_reboot: options.no_reboot,
            placement,
        })
    }
}

fn check_consoles(options: &cli::Run) -> Result<(), Error> {
    let ports = &options.ports;
    if ports.len() >= PORTS_MAX {
        return Err(Error::TooManyPorts {
            given: ports.len(),
            limit: PORTS_MAX - 1,
        });
    }
    let mut known = vec![
        ("--console".to_owned(), "--console", &options.console),
        ("--serial".to_owned(), "--serial", &options.serial),
    ];
    known.extend(
        ports
            .iter()
            .map(|port| (port.label(), "--port", &port.target)),
    );
    for (index, (label, option, target)) in known.iter().enumerate() {
        target.check(option)?;
        let mut before = known.iter().take(index);
        if let Some((other, ..)) = before.find(|(.., other)| target.conflicts(other)) {
            return Err(Error::SameTarget {
                first: other.clone(),
                second: label.clone(),
                target: target.to_string(),
            });
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if ports
            .iter()
            .take(index)
            .any(|other| other.name == port.name)
        {
            return Err(Error::PortTwice {
                name: port.name.clone(),
            });
        }
    }
    Ok(())
}

fn check_cpus(cpus: u32) -> Result<(), Error> {
    match cpus {
        1..=MAX_CPUS => Ok(()),
        given => Err(Error::Cpus {
            given,
            limit: MAX_CPUS,
            why: "the limit of the virt board",
        }),
    }
}

fn check_memory(option: MemoryOption) -> Result<(), Error> {
    let memory = option.size;
    let problem = match memory {
        ..MIN_MEMORY => format!(
            "at least {} is needed for a kernel and its device tree",
            size::show(MIN_MEMORY)
        ),
        _ if memory > MAX_MEMORY => {
            format!(
                "at most {} can be addressed (41-bit guest physical addresses)",
                size::show(MAX_MEMORY)
            )
        }
        _ if !memory.is_multiple_of(MEMORY_ALIGN) => {
            let (below, above) = (
                memory - memory % MEMORY_ALIGN,
                memory.next_multiple_of(MEMORY_ALIGN),
            );
            let (unit, below, above) = (
                size::show(MEMORY_ALIGN),
                size::show(below),
                size::show(above),
            );
            format!("expected a multiple of {unit}, such as {below} or {above}")
        }
        // Pages that nobody touches take nothing, so a guest may have more RAM than its host, unless it takes all at once.
        _ if !option.prealloc && option.hugepages != HugePages::On => return Ok(()),
        _ => return check_host_memory(memory),
    };
    Err(Error::Memory {
        given: size::show(memory),
        problem,
    })
}

/// More than RAM and swap together cannot be taken at once; refused here rather than by the OOM killer later.
fn check_host_memory(memory: u64) -> Result<(), Error> {
    let info = sysinfo().map_err(|errno| Error::Host {
        what: "read the host's memory size".into(),
        source: errno.into(),
    })?;
    let available = info.ram_total().saturating_add(info.swap_total());
    if memory > available {
        // Rounded down to whole MiB: exact bytes of a host's RAM say nothing to people.
        let available = size::show(available - available % MEMORY_ALIGN);
        return Err(Error::HostMemory {
            given: size::show(memory),
            available,
        });
    }
    Ok(())
}

/// A longer command line would be cut without a word: by Linux at its COMMAND_LINE_SIZE (1024 on RISC-V), and other
/// guests copy it to a page at best.
fn check_cmdline(cmdline: &str, format: Format) -> Result<(), Error> {
    let (limit, why) = match format {
        Format::Image => (1023, "Linux on RISC-V keeps 1024 with the closing NUL"),
        Format::Elf | Format::StaticPie | Format::Raw => (4095, "a page with the closing NUL"),
    };
    if let Some(at) = cmdline.find('\0') {
        return Err(Error::CommandLineNul { at });
    }
    match cmdline.len() {
        length if length > limit => Err(Error::CommandLine { length, limit, why }),
        _ => Ok(()),
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off (SBI SRST shutdown, reason 0).
    PowerOff,
    /// The guest wants to start anew.
    Reboot,
    /// The guest reported a failure (SBI SRST, reason 1).
    Failure,
    /// The user left with Ctrl-a x.
    Left,
    /// A signal ended the monitor in order.
    Signal(i32),
}

impl End {
    /// The exit status of `hartvisor`: 0, 1 when the guest failed, 128 + n after signal n.
    pub fn exit_code(self) -> u8 {
        match self {
            End::PowerOff | End::Reboot | End::Left => 0,
            End::Failure => 1,
            End::Signal(number) => {
                u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(size: u64) -> MemoryOption {
        MemoryOption {
            size,
            hugepages: HugePages::Off,
            prealloc: false,
            shared: false,
        }
    }

    fn problem(memory: u64) -> String {
        check_memory(option(memory)).unwrap_err().to_string()
    }

    #[test]
    fn memory_must_be_whole_huge_pages_within_the_address_space() {
        assert!(check_memory(option(MIN_MEMORY)).is_ok());
        assert!(problem(0).contains("--memory 0: at least 16M"));
        assert!(problem(MIN_MEMORY - 1).contains("at least 16M"));
        assert!(problem((64 << 20) + 1).contains("such as 64M or 66M"));
        assert!(problem(MAX_MEMORY + MEMORY_ALIGN).contains("at most 2046G"));
        assert!(problem(u64::MAX).contains("at most 2046G"));
    }

    #[test]
    fn more_memory_than_the_host_has_is_fine_until_all_is_taken_at_once() {
        let mut option = option(MAX_MEMORY);
        assert!(check_memory(option).is_ok());
        option.prealloc = true;
        let error = check_memory(option).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }

    #[test]
    fn the_number_of_vcpus_is_limited_by_the_board() {
        assert!(
            check_cpus(0)
                .unwrap_err()
                .to_string()
                .contains("--cpus 0: expected 1 to 512")
        );
        assert!(check_cpus(1).is_ok() && check_cpus(512).is_ok());
        assert!(check_cpus(513).is_err());
    }

    #[test]
    fn a_command_line_that_the_guest_would_cut_is_refused() {
        let text = "x".repeat(4096);
        assert!(check_cmdline(&text[..1023], Format::Image).is_ok());
        assert!(
            check_cmdline(&text[..1024], Format::Image)
                .unwrap_err()
                .to_string()
                .contains("at most 1023")
        );
        assert!(check_cmdline(&text[..4095], Format::Elf).is_ok());
        assert!(
            check_cmdline(&text, Format::Elf)
                .unwrap_err()
                .to_string()
                .contains("at most 4095")
        );
        assert!(
            check_cmdline("quiet\0splash", Format::Image)
                .unwrap_err()
                .to_string()
                .contains("NUL at byte 5")
        );
    }

    #[test]
    fn signals_become_128_and_their_number() {
        assert_eq!(End::Signal(15).exit_code(), 143);
        assert_eq!(
            (
                End::PowerOff.exit_code(),
                End::Failure.exit_code(),
                End::Left.exit_code()
            ),
            (0, 1, 0)
        );
    }
}
