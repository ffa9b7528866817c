//! The board's devices: which there are, and in which virtio-mmio slot each sits.

use std::io;
use std::sync::Arc;

use devices::block::Config;
use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::platform::bus::Bus;
use devices::rng::Rng;
use devices::transport::mmio::{self, Mmio};
use devices::virtio::VirtioDevice;
use log::{info, warn};

use crate::consoles::Consoles;
use crate::error::Error;
use crate::layout;
use crate::machine::{Disk, Machine};
use crate::observe::{self, Observer};

/// The machine's devices.
pub struct Devices {
    /// In slot order: the console, the disks as they were given, the random numbers. Address, interrupt and device tree
    /// node follow from the slot.
    pub models: Vec<Box<dyn VirtioDevice>>,
    /// The disks' configurations, in their order.
    pub disks: Vec<Arc<Config>>,
}

impl Devices {
    /// Those that `machine` asks for.
    ///
    /// # Errors
    /// The host has no file descriptor left, or a disk cannot be read.
    pub fn new(machine: &Machine, consoles: &Consoles) -> Result<Devices, Error> {
        let mut models: Vec<Box<dyn VirtioDevice>> = vec![Box::new(consoles.virtio()?)];
        let mut disks = Vec::new();
        for disk in &machine.disks {
            let device = disk.device().map_err(descriptors)?;
            disks.push(device.shared_config());
            models.push(Box::new(device));
        }
        if machine.config.rng {
            models.push(Box::new(Rng::default()));
        }
        Ok(Devices { models, disks })
    }
}

/// The disks of a running machine, whose files may change their size.
pub struct Sizes<'a> {
    disks: Vec<(&'a Disk, Arc<Config>, Arc<Mmio>)>,
}

impl<'a> Sizes<'a> {
    /// Those of `machine`, behind the transports that [`plug`] gave.
    pub fn new(machine: &'a Machine, configs: Vec<Arc<Config>>, plugged: &[Arc<Mmio>]) -> Self {
        let transports = plugged.iter().skip(1).cloned();
        let disks = machine.disks.iter().zip(configs).zip(transports);
        Sizes {
            disks: disks
                .map(|((disk, config), mmio)| (disk, config, mmio))
                .collect(),
        }
    }

    /// Looks at the files again, and tells the guest of sizes that are new.
    pub fn look(&self) {
        for (disk, config, transport) in &self.disks {
            match disk.length() {
                Ok(bytes) if config.resize(bytes) => {
                    info!(
                        "disk {:?} has {} sectors now",
                        disk.config.path,
                        config.capacity()
                    );
                    transport.config_changed();
                }
                Ok(_) => {}
                Err(error) => warn!(
                    "cannot read the size of disk {:?}: {error}",
                    disk.config.path
                ),
            }
        }
    }
}

/// Puts `devices` on the bus, slot by slot, where `observer` watches them; `line` gives the wire of an interrupt source.
///
/// # Errors
/// The host has no file descriptor left, or there are more devices than slots.
pub fn plug(
    bus: &mut Bus,
    memory: &Memory,
    devices: Vec<Box<dyn VirtioDevice>>,
    observer: &dyn Observer,
    line: impl Fn(u32) -> Box<dyn IrqLine>,
) -> Result<Vec<Arc<Mmio>>, Error> {
    let mut plugged = Vec::new();
    for (slot, device) in devices.into_iter().enumerate() {
        let line = line(layout::virtio_irq(slot));
        let (device, line) = observe::device(observer, slot, device, line);
        let device = Mmio::new(device, memory.clone(), line).map_err(descriptors)?;
        let device = Arc::new(device);
        let address = layout::virtio_address(slot);
        bus.insert(address, mmio::SIZE, device.clone())
            .map_err(|overlap| Error::Internal(overlap.to_string()))?;
        plugged.push(device);
    }
    Ok(plugged)
}

fn descriptors(source: io::Error) -> Error {
    Error::Host {
        what: "give a device its file descriptors".to_owned(),
        source,
    }
}
