//! The board's devices: which there are, and in which virtio-mmio slot each sits.

use std::io;
use std::sync::Arc;

use devices::block::Block;
use devices::bus::Bus;
use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::mmio::{self, Mmio};
use devices::rng::Rng;
use devices::virtio::VirtioDevice;

use crate::consoles::Consoles;
use crate::error::Error;
use crate::layout;
use crate::machine::{Disk, Machine};

/// The machine's devices in slot order: the console, the disks as they were given, the random numbers. Address, interrupt and device
/// tree node follow from the slot.
///
/// # Errors
/// The host has no file descriptor left.
pub fn devices(
    machine: &Machine,
    consoles: &Consoles,
) -> Result<Vec<Box<dyn VirtioDevice>>, Error> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(consoles.virtio()?)];
    for disk in &machine.disks {
        devices.push(Box::new(block(disk).map_err(descriptors)?));
    }
    if machine.rng {
        devices.push(Box::new(Rng::default()));
    }
    Ok(devices)
}

fn block(disk: &Disk) -> io::Result<Block> {
    let serial = disk.serial.as_deref().unwrap_or_default();
    let file = disk.file.try_clone()?;
    Ok(Block::new(file, disk.size, disk.readonly, serial))
}

/// Puts `devices` on the bus, slot by slot; `line` gives the wire of an interrupt source.
///
/// # Errors
/// The host has no file descriptor left, or there are more devices than slots.
pub fn plug(
    bus: &mut Bus,
    memory: &Memory,
    devices: Vec<Box<dyn VirtioDevice>>,
    line: impl Fn(u32) -> Box<dyn IrqLine>,
) -> Result<Vec<Arc<Mmio>>, Error> {
    let mut plugged = Vec::new();
    for (slot, device) in devices.into_iter().enumerate() {
        let line = line(layout::virtio_irq(slot));
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
