//! The machine that was asked for: everything checked and opened, before any guest starts.

use std::path::PathBuf;

use nix::sys::sysinfo::sysinfo;

use crate::config::{self, HugePages, Memory, Target};
use crate::disk;
pub use crate::disk::Disk;
use crate::dtb::Dtb;
use crate::error::Error;
use crate::layout::MEMORY_ALIGN;
use crate::loader::{self, Format, Initrd, Kernel, Placement};
use crate::size;

/// A machine that can be started: by KVM or by QEMU.
#[derive(Debug)]
pub struct Machine {
    /// What was asked for, validated.
    pub config: config::Machine,
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The user's own device tree, instead of the one that describes the machine.
    pub dtb: Option<Dtb>,
    /// Where to write the guest's device tree, instead of running the guest.
    pub dump_dtb: Option<PathBuf>,
    /// The disks, in the guest's order.
    pub disks: Vec<Disk>,
    /// Where kernel, initrd and device tree lie when no firmware decides that.
    pub placement: Placement,
}

impl Machine {
    /// Checks and opens everything that `config` names. With `dump_dtb` only the device tree is wanted, and goes there.
    ///
    /// # Errors
    /// The values make no machine, or something they name cannot serve.
    pub fn new(mut config: config::Machine, dump_dtb: Option<PathBuf>) -> Result<Machine, Error> {
        config.validate()?;
        check_host_memory(config.memory)?;
        let memory = config.memory.size;
        let kernel = Kernel::open(&config.kernel, memory)?;
        check_cmdline(&config.cmdline, kernel.format())?;
        let initrd = config.initrd.as_deref().map(Initrd::open).transpose()?;
        let disks = disk::open(&config.disks, config.cpus)?;
        for (option, _, target) in config.consoles() {
            target.check(option)?;
        }
        let placement = loader::place(&kernel, initrd.as_ref().map(|initrd| initrd.size), memory)?;
        let dtb = config
            .dtb
            .as_deref()
            .map(|path| Dtb::open(path, &config.cmdline, placement.initrd.as_ref()))
            .transpose()?;
        if dump_dtb.is_some() {
            // No terminal is taken and no file emptied for a guest that does not run.
            (config.console, config.serial) = (Target::Null, Target::Null);
            config.ports.clear();
        }
        Ok(Machine {
            config,
            kernel,
            initrd,
            dtb,
            dump_dtb,
            disks,
            placement,
        })
    }
}

/// More than RAM and swap together cannot be taken at once; refused here rather than by the OOM killer later. Pages that
/// nobody touches take nothing, so a guest may have more RAM than its host unless it takes all at once.
fn check_host_memory(memory: Memory) -> Result<(), Error> {
    if !memory.prealloc && memory.hugepages != HugePages::On {
        return Ok(());
    }
    let info = sysinfo().map_err(|errno| Error::Host {
        what: "read the host's memory size".into(),
        source: errno.into(),
    })?;
    let available = info.ram_total().saturating_add(info.swap_total());
    if memory.size > available {
        // Rounded down to whole MiB: exact bytes of a host's RAM say nothing to people.
        let available = size::show(available - available % MEMORY_ALIGN);
        return Err(Error::HostMemory {
            given: size::show(memory.size),
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
    /// The guest's kernel panicked (pvpanic).
    Panic,
    /// The user left with Ctrl-a x.
    Left,
    /// A signal ended the monitor in order.
    Signal(i32),
}

impl End {
    /// The exit status of `hartvisor`: 0, 1 when the guest failed, 5 when its kernel panicked, 128 + n after signal n. A
    /// reboot is 0 here; [`config::Machine::no_reboot`] may say otherwise.
    pub fn exit_code(self) -> u8 {
        match self {
            End::PowerOff | End::Reboot | End::Left => 0,
            End::Failure => 1,
            End::Panic => 5,
            End::Signal(number) => {
                u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MAX_MEMORY;

    #[test]
    fn more_memory_than_the_host_has_is_fine_until_all_is_taken_at_once() {
        let mut memory = Memory::new(MAX_MEMORY);
        assert!(check_host_memory(memory).is_ok());
        memory.prealloc = true;
        let error = check_host_memory(memory).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
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
