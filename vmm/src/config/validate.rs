//! Checks the configuration as far as possible before anything is opened.

use devices::console::PORTS_MAX;

use super::error::ConfigError;
use super::{Machine, Memory, Port, Target};
use crate::error::Error;
use crate::layout::{MAX_CPUS, MAX_MEMORY, MEMORY_ALIGN, MIB, MIN_MEMORY};
use crate::size;

impl Machine {
    /// Checks that a board can have these values.
    ///
    /// # Errors
    /// The first invalid value. The message says what is expected.
    pub fn validate(&self) -> Result<(), Error> {
        self.start()?;
        cpus(self.cpus)?;
        memory(&self.memory)?;
        if let Some(at) = self.cmdline.find('\0') {
            return Err(Error::from(ConfigError::CommandLineNul { at }));
        }
        for disk in &self.disks {
            let named = |problem| Error::Usage(format!("--disk {:?}: {problem}", disk.path));
            disk.check().map_err(named)?;
        }
        if let Some(files) = &self.cloud_init {
            let named = |problem| Error::Usage(format!("--cloud-init: {problem}"));
            files.check().map_err(named)?;
        }
        super::net::check_all(&self.nets)?;
        if let Some(vsock) = &self.vsock {
            vsock.check_with(self.devices)?;
        }
        for remote in &self.vhost_user {
            let named = |problem| Error::Usage(format!("--vhost-user: {problem}"));
            remote.check().map_err(named)?;
        }
        super::share::check_all(&self.shares)?;
        super::balloon::check(self.balloon.as_ref(), &self.memory)?;
        ports(&self.ports)?;
        self.targets()
    }

    /// Checks that there is something to start, and that it uses what is given to it.
    fn start(&self) -> Result<(), Error> {
        let for_kernel = |option| Err(Error::from(ConfigError::ForKernel { option }));
        match (&self.kernel, &self.firmware) {
            (Some(_), Some(_)) => Err(Error::from(ConfigError::KernelAndFirmware)),
            (Some(_), None) => Ok(()),
            (None, None) if self.disks.is_empty() => Err(Error::from(ConfigError::NothingToStart)),
            (None, _) if self.initrd.is_some() => for_kernel("--initrd"),
            (None, _) if !self.cmdline.is_empty() => for_kernel("--cmdline"),
            (None, _) => Ok(()),
        }
    }

    /// Checks that no two consoles share an output.
    fn targets(&self) -> Result<(), Error> {
        let mut known: Vec<(String, &Target)> = Vec::new();
        for (_, label, target) in self.consoles() {
            let mut before = known.iter();
            if let Some((other, _)) = before.find(|(_, other)| target.conflicts(other)) {
                return Err(Error::from(ConfigError::SameTarget {
                    first: other.clone(),
                    second: label,
                    target: target.to_string(),
                }));
            }
            known.push((label, target));
        }
        Ok(())
    }

    /// Returns the back ends of the consoles and ports, each with its option and its name as the
    /// user knows it.
    pub(crate) fn consoles(&self) -> impl Iterator<Item = (&'static str, String, &Target)> {
        let consoles = [("--console", &self.console), ("--serial", &self.serial)];
        let consoles = consoles.map(|(option, target)| (option, option.to_owned(), target));
        let ports = self.ports.iter();
        let ports = ports.map(|port| ("--port", port.label(), &port.target));
        consoles.into_iter().chain(ports)
    }
}

fn cpus(given: u32) -> Result<(), Error> {
    match given {
        1..=MAX_CPUS => Ok(()),
        given => Err(Error::from(ConfigError::Cpus {
            given,
            limit: MAX_CPUS,
            why: "the limit of the virt board",
        })),
    }
}

fn memory(memory: &Memory) -> Result<(), Error> {
    let size = memory.size;
    let problem = match size {
        ..MIN_MEMORY => {
            let least = size::show(MIN_MEMORY);
            let problem = format!("at least {least} is needed for a kernel and its device tree");
            match size.checked_mul(MIB) {
                // Other monitors take a number without a unit as MiB.
                Some(MIN_MEMORY..=MAX_MEMORY) => {
                    format!("{problem} (did you mean {size}M? a number alone is bytes)")
                }
                _ => problem,
            }
        }
        _ if size > MAX_MEMORY => {
            let most = size::show(MAX_MEMORY);
            format!("at most {most} can be addressed (41-bit guest physical addresses)")
        }
        _ if !size.is_multiple_of(MEMORY_ALIGN) => {
            let unit = size::show(MEMORY_ALIGN);
            let below = size::show(size - size % MEMORY_ALIGN);
            let above = size::show(size.next_multiple_of(MEMORY_ALIGN));
            format!("expected a multiple of {unit}, such as {below} or {above}")
        }
        _ => return Ok(()),
    };
    Err(Error::from(ConfigError::Memory {
        given: size::show(size),
        problem,
    }))
}

fn ports(ports: &[Port]) -> Result<(), Error> {
    // Port 0 is the console.
    if ports.len() >= PORTS_MAX {
        return Err(Error::from(ConfigError::TooManyPorts {
            given: ports.len(),
            limit: PORTS_MAX - 1,
        }));
    }
    let mut names = Vec::new();
    for port in ports {
        let named = |problem| Error::Usage(format!("--port: {problem}"));
        port.check().map_err(named)?;
        if names.contains(&&port.name) {
            let name = port.name.clone();
            return Err(Error::from(ConfigError::PortTwice { name }));
        }
        names.push(&port.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Disk, Kernel, KernelFormat};

    #[test]
    fn a_guest_starts_at_its_kernel_or_at_firmware_that_boots_a_disk() {
        let disk = Disk::parse("d".as_ref()).unwrap();
        let disks = Machine::from_disks(vec![disk]);
        let problem = |change: fn(&mut Machine)| {
            let mut machine = disks.clone();
            change(&mut machine);
            let error = machine.validate().err()?;
            assert_eq!(error.exit_code(), 2, "{error}");
            Some(error.to_string())
        };
        assert_eq!(problem(|_| ()), None);
        assert_eq!(problem(|it| it.firmware = Some("f".into())), None);
        for (change, part) in [
            (
                (|it| it.disks.clear()) as fn(&mut Machine),
                "nothing to start: --kernel FILE",
            ),
            (|it| it.initrd = Some("i".into()), "--initrd needs --kernel"),
            (|it| it.cmdline = "quiet".into(), "--cmdline needs --kernel"),
            (
                |it| {
                    it.kernel = Some(Kernel { path: "k".into(), format: KernelFormat::Auto });
                    it.firmware = Some("f".into());
                },
                "both given",
            ),
        ] {
            let problem = problem(change).unwrap();
            assert!(problem.contains(part), "{problem}");
        }
    }

    fn problem(size: u64) -> String {
        memory(&Memory::new(size)).unwrap_err().to_string()
    }

    #[test]
    fn memory_must_be_whole_huge_pages_within_the_address_space() {
        for size in [MIN_MEMORY, MAX_MEMORY] {
            assert!(memory(&Memory::new(size)).is_ok());
        }
        assert!(problem(0).contains("--memory 0: at least 16M"));
        assert!(problem(MIN_MEMORY - 1).ends_with("device tree"));
        assert!(problem((64 << 20) + 1).contains("such as 64M or 66M"));
        assert!(problem(MAX_MEMORY + MEMORY_ALIGN).contains("at most 2046G"));
        assert!(problem(u64::MAX).contains("at most 2046G"));
    }

    #[test]
    fn a_size_that_was_meant_in_megabytes_is_told_apart() {
        assert!(problem(512).contains("did you mean 512M?"));
        assert!(problem(8192).contains("did you mean 8192M?"));
        assert!(!problem(15).contains("did you mean"));
    }

    #[test]
    fn the_number_of_vcpus_is_limited_by_the_board() {
        let error = cpus(0).unwrap_err().to_string();
        assert!(error.contains("--cpus 0: expected 1 to 512"), "{error}");
        assert!(cpus(1).is_ok() && cpus(512).is_ok());
        assert!(cpus(513).is_err());
    }
}
