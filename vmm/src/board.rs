//! The board's virtio devices in their slots on the bus.

use std::io;
use std::sync::Arc;

use devices::irq::IrqLine;
use devices::memory::Memory;
use devices::platform::bus::Bus;
use devices::transport::mmio::{self, Mmio};
use log::debug;

use crate::consoles::Consoles;
use crate::error::Error;
use crate::host::slice::ShortSlice;
use crate::machine::Machine;
use crate::observe::{self, Observer};

mod line;
pub(crate) mod slots;

pub(crate) use line::Line;
use slots::{Device, Parts, Slot};

/// A machine's virtio devices, in the order of their slots.
#[derive(Default)]
pub struct Devices<'m>(Vec<Plugged<'m>>);

/// A device on the bus.
struct Plugged<'m> {
    slot: Slot,
    transport: Arc<Mmio>,
    /// Checks whether the size that the host gives it changed.
    resized: Option<Box<dyn Fn() -> bool + 'm>>,
    /// Logs its state.
    report: Option<Box<dyn Fn() + 'm>>,
    /// Asks the guest to power off.
    power_off: Option<Box<dyn Fn() -> bool + 'm>>,
}

impl<'m> Devices<'m> {
    /// Adds the devices of `machine` to the bus, attached to `observer`. `line` returns the line of
    /// an interrupt source.
    ///
    /// # Errors
    /// The host has no file descriptor left, or a disk cannot be read.
    pub fn plug(
        bus: &mut Bus,
        memory: &Memory,
        machine: &'m Machine,
        consoles: &'m Consoles,
        observer: &dyn Observer,
        line: impl Fn(u32) -> Box<dyn IrqLine>,
    ) -> Result<Devices<'m>, Error> {
        let parts = Parts { machine, consoles: Some(consoles) };
        let mut devices = Devices::default();
        for slot in slots::slots(&machine.config) {
            let model = slot.model(&parts)?;
            let (name, address, irq) = (slot.name(), slot.address(), slot.irq());
            debug!("{name}: registers at {address:#x}, interrupt {irq}");
            let line = line(slot.irq());
            let transport = match model.device {
                Device::Ours(device) => {
                    let (device, line) = observe::device(observer, &slot.name(), device, line);
                    // A vCPU that serves a queue inline does not wait for the device's thread.
                    let mut queues = 0..device.queues().len();
                    let inline = queues.any(|index| device.inline_notify(index));
                    let _short = (!inline).then(ShortSlice::begin);
                    Mmio::new(device, memory.clone(), line)
                }
                Device::Remote(remote) => Mmio::remote(&remote, memory.clone(), line),
            };
            let transport = Arc::new(transport.map_err(descriptors)?);
            bus.insert(slot.address(), mmio::SIZE, transport.clone())
                .map_err(|overlap| Error::Internal(overlap.to_string()))?;
            if let Some(attached) = model.attached {
                attached(&transport);
            }
            devices.0.push(Plugged {
                slot,
                transport,
                resized: model.resized,
                report: model.report,
                power_off: model.power_off,
            });
        }
        Ok(devices)
    }

    /// Iterates over the devices with the guest physical address of their registers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Mmio>)> {
        let devices = self.0.iter();
        devices.map(|device| (device.slot.address(), &device.transport))
    }

    /// Checks the sizes of the disks' files and of the balloon, and notifies the guest of changes.
    pub fn resize(&self) {
        for device in &self.0 {
            if device.resized.as_ref().is_some_and(|resized| resized()) {
                device.transport.config_changed();
            }
        }
    }

    /// Logs the state of the devices that have one.
    pub fn report(&self) {
        let reports = self.0.iter().filter_map(|it| it.report.as_ref());
        reports.for_each(|report| report());
    }

    /// Asks the guest to power off. Returns false if it has no driver for that.
    pub fn power_off(&self) -> bool {
        let mut asks = self.0.iter().filter_map(|it| it.power_off.as_ref());
        asks.any(|ask| ask())
    }

    /// Returns the number of devices. They occupy the first slots.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no devices.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn descriptors(source: io::Error) -> Error {
    Error::host("give a device its file descriptors (ulimit -n 256 is enough for most machines)")(
        source,
    )
}
