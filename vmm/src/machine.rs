//! The requested machine: everything is checked and opened before any guest starts.

use std::fmt;
use std::path::PathBuf;

use rustix::system::sysinfo;

use crate::config::ConfigError;
use crate::config::{self, HugePages, Memory, Target};
use crate::dtb::Dtb;
use crate::error::Error;
pub use crate::host::disk::Disk;
use crate::host::net::Card;
use crate::host::remote::BackEnd;
use crate::host::share::Directory;
use crate::host::{balloon, cloud_init, disk, firmware, vsock};
use crate::layout::MEMORY_ALIGN;
use crate::loader::{self, Format, Initrd, Kernel, Placement};
use crate::size;

/// A machine that is ready to start, on KVM or under QEMU.
#[derive(Debug)]
pub struct Machine {
    /// The validated configuration.
    pub config: config::Machine,
    /// The kernel, or the firmware that boots a disk.
    pub kernel: Kernel,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The user's device tree, instead of the generated one.
    pub dtb: Option<Dtb>,
    /// Where to write the guest's device tree, instead of running the guest.
    pub dump_dtb: Option<PathBuf>,
    /// The disks, in the guest's order. The last is cloud-init's, if there is one.
    pub disks: Vec<Disk>,
    /// The host's side of the network cards.
    pub cards: Vec<Card>,
    /// The programs behind sockets that serve devices.
    pub back_ends: Vec<BackEnd>,
    /// The shared directories.
    pub directories: Vec<Directory>,
    /// The host's side of the socket device.
    pub vsock: Option<vsock::Host>,
    /// Where the kernel, initrd and device tree lie if no firmware decides that.
    pub placement: Placement,
}

impl Machine {
    /// Checks and opens everything that `config` names. With `dump_dtb` the run only writes the
    /// device tree to that path.
    ///
    /// # Errors
    /// A value is invalid, or something that it names cannot be used.
    pub fn new(mut config: config::Machine, dump_dtb: Option<PathBuf>) -> Result<Machine, Error> {
        config.validate()?;
        check_host_memory(config.memory)?;
        let memory = config.memory.size;
        let kernel = match (&config.kernel, &config.firmware) {
            (Some(kernel), _) => Kernel::open(kernel, memory)?,
            (None, Some(firmware)) => Kernel::firmware(firmware, memory)?,
            (None, None) => Kernel::firmware(&firmware::find()?, memory)?,
        };
        check_cmdline(&config.cmdline, kernel.format())?;
        let initrd = config.initrd.as_deref().map(Initrd::open).transpose()?;
        let mut disks = disk::open(&config.disks, config.cpus)?;
        if let Some(files) = &config.cloud_init {
            disks.push(cloud_init::disk(files)?);
        }
        balloon::check(&config)?;
        for (option, _, target) in config.consoles() {
            target.check(option)?;
        }
        let cards = match dump_dtb {
            Some(_) => Vec::new(),
            None => config
                .nets
                .iter()
                .zip(0..)
                .map(|(net, index)| Card::open(net, index))
                .collect::<Result<_, _>>()?,
        };
        let vsock = match &config.vsock {
            Some(config) if dump_dtb.is_none() => Some(vsock::Host::open(config)?),
            _ => None,
        };
        let back_ends = config.vhost_user.iter().map(BackEnd::open);
        let back_ends = back_ends.collect::<Result<_, _>>()?;
        let shares = config.shares.iter().zip(0..);
        let directories = shares.map(|(share, index)| Directory::open(share, index));
        let directories = directories.collect::<Result<_, _>>()?;
        config.memory.shared |= config.has_back_ends();
        let placement = loader::place(&kernel, initrd.as_ref().map(|initrd| initrd.size), memory)?;
        let dtb = config
            .dtb
            .as_deref()
            .map(|path| Dtb::open(path, &config.cmdline, placement.initrd.as_ref()))
            .transpose()?;
        if dump_dtb.is_some() {
            // Do not take the terminal or truncate files for a guest that does not run.
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
            cards,
            back_ends,
            directories,
            vsock,
            placement,
        })
    }

    /// The cards whose descriptor a QEMU inherits.
    pub(crate) fn lent_cards(&self) -> impl Iterator<Item = &Card> {
        let cards = self.cards.iter().zip(&self.config.nets);
        cards.filter_map(|(card, config)| (!config.vhost_user).then_some(card))
    }
}

/// Checks that the host has enough memory, if all of it is allocated at once: more than RAM and
/// swap together would end in the OOM killer. Otherwise pages that the guest never touches cost
/// nothing, so a guest may have more RAM than the host.
fn check_host_memory(memory: Memory) -> Result<(), Error> {
    if !memory.prealloc && memory.hugepages != HugePages::On {
        return Ok(());
    }
    let info = sysinfo();
    let available = info.totalram.saturating_add(info.totalswap);
    let available = available.saturating_mul(info.mem_unit.into());
    if memory.size > available {
        // Rounded down to whole MiB: the exact number of bytes does not help the user.
        let available = size::show(available - available % MEMORY_ALIGN);
        return Err(Error::from(ConfigError::HostMemory {
            given: size::show(memory.size),
            available,
        }));
    }
    Ok(())
}

/// Checks the length of the command line. A longer one would be truncated silently: by Linux at
/// COMMAND_LINE_SIZE (1024 on RISC-V), and by other guests at a page at best.
fn check_cmdline(cmdline: &str, format: Format) -> Result<(), Error> {
    let (limit, why) = match format {
        Format::Image => (1023, "Linux on RISC-V keeps 1024 with the closing NUL"),
        Format::Elf | Format::StaticPie | Format::Raw => (4095, "a page with the closing NUL"),
    };
    match cmdline.len() {
        length if length > limit => {
            Err(Error::from(ConfigError::CommandLine { length, limit, why }))
        }
        _ => Ok(()),
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off (SBI SRST shutdown, reason 0).
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// The guest reported a failure (SBI SRST, reason 1, or the test finisher).
    Failure,
    /// The guest's kernel panicked (pvpanic).
    Panic,
    /// The user quit with Ctrl-a x.
    Left,
    /// A signal asked this program to stop.
    Signal(i32),
}

impl End {
    /// Returns the exit status of `hartvisor`: 0, 1 if the guest failed, 5 if its kernel panicked,
    /// 128 + n after signal n. A reboot is 0 here; [`config::Machine::no_reboot`] may change that.
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

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            End::PowerOff => "the guest powered off",
            End::Reboot => "the guest asked for a reboot",
            End::Failure => "the guest reported a failure",
            End::Panic => "the guest's kernel panicked",
            End::Left => "the user quit with Ctrl-a x",
            End::Signal(number) => return write!(out, "ended by signal {number}"),
        })
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
