//! The table of the virtio devices that a machine can have, and what each is on KVM, under QEMU and
//! on a vhost-user socket.
//!
//! A device is identified by its slot alone. Its address, interrupt, device tree node and the name
//! in statistics, traces and messages follow from the slot. A new device needs a model in
//! `devices`, values in [`config`], and a row here. Append new rows, so that existing devices keep
//! their slots.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use devices::input::Input;
use devices::rng::Rng;
use devices::transport::mmio::Mmio;
use devices::transport::remote::Remote;
use devices::virtio::VirtioDevice;

use super::Line;
use crate::config::ConfigError;
use crate::config::{self, BackEnd};
use crate::consoles::Consoles;
use crate::error::Error;
use crate::layout;
use crate::machine::Machine;

mod balloon;
mod console;
mod disk;
mod net;
mod remote;
mod share;
mod vsock;

pub(crate) use console::{ConsoleSockets, Sockets, virtio_target};

/// A row: one kind of device.
pub(crate) struct Row {
    /// The device's name, or its prefix if there can be several: `disk0`, `disk1`, ….
    name: &'static str,
    /// The device's name in the message that too few slots are left.
    title: &'static str,
    /// How many of them a machine has.
    count: Count,
    /// Creates the nth one of a machine.
    model: for<'m> fn(&Parts<'m>, usize) -> Result<Model<'m>, Error>,
    /// Adds the nth one to QEMU's arguments.
    qemu: fn(&mut Line, &Machine, &Place<'_>),
    /// How to serve it over vhost-user, if that is possible.
    pub(crate) served: Option<Served>,
}

/// How many devices of one kind there are.
enum Count {
    /// One or none.
    One(fn(&config::Machine) -> bool),
    /// Any number. Their names are numbered.
    Many(fn(&config::Machine) -> usize),
}

/// How a device is served over vhost-user.
pub(crate) struct Served {
    /// QEMU's front end for it.
    pub(crate) front_end: &'static str,
    /// The nth one of a machine as the `--device` option of hartvisor vhost-user.
    pub(crate) option: fn(&Machine, usize) -> OsString,
}

/// What devices are created from.
pub(crate) struct Parts<'m> {
    /// The machine.
    pub(crate) machine: &'m Machine,
    /// Their back ends, unless QEMU runs the consoles.
    pub(crate) consoles: Option<&'m Consoles>,
}

/// Who serves a device.
pub(crate) enum Device {
    /// This process.
    Ours(Box<dyn VirtioDevice>),
    /// Another one.
    Remote(Arc<Remote>),
}

/// Receives the device's transport once it exists.
type Attached<'m> = Box<dyn FnOnce(&Arc<Mmio>) + 'm>;

/// A device and its connections to the host.
pub(crate) struct Model<'m> {
    /// The device.
    pub(crate) device: Device,
    /// Called with its transport.
    pub(crate) attached: Option<Attached<'m>>,
    /// Checks whether the size that the host gives it changed. Returns true if that changed the
    /// guest's view of the device.
    pub(crate) resized: Option<Box<dyn Fn() -> bool + 'm>>,
    /// Logs the device's state, and what the guest answers to a request for it.
    pub(crate) report: Option<Box<dyn Fn() + 'm>>,
    /// Asks the guest to power off. Returns false if the guest has no driver for that.
    pub(crate) power_off: Option<Box<dyn Fn() -> bool + 'm>>,
}

impl Model<'_> {
    fn new(device: impl VirtioDevice + 'static) -> Self {
        Model::of(Device::Ours(Box::new(device)))
    }

    fn remote(remote: Arc<Remote>) -> Self {
        let link = remote.link();
        Model { attached: link.map(remote::follow), ..Model::of(Device::Remote(remote)) }
    }

    fn of(device: Device) -> Self {
        Model { device, attached: None, resized: None, report: None, power_off: None }
    }
}

/// The place of a device under QEMU.
pub(crate) struct Place<'a> {
    /// Its index among devices of its kind.
    pub(crate) nth: usize,
    /// The bus: `virtio-mmio-bus.3`.
    pub(crate) bus: String,
    /// The address of the vhost-user back end (`path=…` or `fd=…`). `None`: QEMU's own device.
    pub(crate) served: Option<&'a OsStr>,
    /// The back ends of the consoles, unless QEMU has them.
    pub(crate) consoles: Option<&'a Sockets>,
}

/// The name of the power key, and its ID under QEMU.
pub(crate) const POWER_KEY: &str = "power-key";

/// The table, in slot order.
static TABLE: [Row; 9] = [
    Row {
        name: "console",
        title: "the console",
        count: Count::One(|_| true),
        model: console::model,
        qemu: console::qemu,
        served: None,
    },
    Row {
        name: "disk",
        title: "the disks",
        count: Count::Many(config::Machine::disk_count),
        model: disk::model,
        qemu: disk::qemu,
        served: Some(Served { front_end: "vhost-user-blk", option: disk::option }),
    },
    Row {
        name: "rng",
        title: "the random number generator (not with --no-rng)",
        count: Count::One(|config| config.rng),
        model: |_, _| Ok(Model::new(Rng::default())),
        qemu: |line, _, place| {
            let bus = &place.bus;
            if let Some(address) = place.served {
                line.socket("rng", address);
                line.add(["-device", &format!("vhost-user-rng,chardev=rng,bus={bus}")]);
            } else {
                let device = format!("virtio-rng-device,rng=rng,bus={bus}");
                line.add(["-object", "rng-builtin,id=rng", "-device", &device]);
            }
        },
        served: Some(Served { front_end: "vhost-user-rng", option: |_, _| "rng".into() }),
    },
    Row {
        name: POWER_KEY,
        title: "the power key (not with --no-power-key)",
        count: Count::One(|config| config.power_key),
        model: |_, _| {
            let input = Input::new().map_err(Error::host("create the power key"))?;
            let key = input.key();
            let power_off = Box::new(move || key.press());
            Ok(Model { power_off: Some(power_off), ..Model::new(input) })
        },
        qemu: |line, _, place| {
            let device = format!("virtio-keyboard-device,id={POWER_KEY},bus={}", place.bus);
            line.add(["-device", &device]);
        },
        served: None,
    },
    net::ROW,
    vsock::ROW,
    balloon::ROW,
    remote::ROW,
    share::ROW,
];

/// A device of a machine, and its slot.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// The slot's number, from 0.
    number: usize,
    row: &'static Row,
    /// Its index among devices of its kind, from 0.
    nth: usize,
    /// The number of devices of its kind.
    of: usize,
}

impl Slot {
    /// Returns the guest physical address of its registers.
    pub(crate) fn address(self) -> u64 {
        layout::virtio_address(self.number)
    }

    /// Returns its interrupt source.
    pub(crate) fn irq(self) -> u32 {
        layout::virtio_irq(self.number)
    }

    /// Returns the device's name in statistics, traces and messages: `console`, `disk0`, ….
    pub(crate) fn name(self) -> String {
        match self.row.count {
            Count::One(_) => self.row.name.to_owned(),
            Count::Many(_) => format!("{}{}", self.row.name, self.nth),
        }
    }

    /// Creates the device.
    ///
    /// # Errors
    /// The host has no file descriptor left, or a file cannot be read.
    pub(crate) fn model<'m>(self, parts: &Parts<'m>) -> Result<Model<'m>, Error> {
        (self.row.model)(parts, self.nth)
    }

    /// Returns its `--device` option of hartvisor vhost-user, if it can be served.
    pub(crate) fn option(self, machine: &Machine) -> Option<OsString> {
        let served = self.row.served.as_ref()?;
        Some((served.option)(machine, self.nth))
    }

    /// Whether it can be served over vhost-user.
    pub(crate) fn is_served(self) -> bool {
        self.row.served.is_some()
    }

    /// Adds it to QEMU's arguments. `served` is the address of its vhost-user back end, `consoles`
    /// are those of the consoles.
    ///
    /// QEMU lists the slots in reverse order in its device tree. So the first device of a kind goes
    /// into the highest slot of its kind, and a guest that numbers devices in the order it finds
    /// them (/dev/vda, …) gets the same numbers as under KVM.
    pub(crate) fn qemu(
        self,
        line: &mut Line,
        machine: &Machine,
        served: Option<&OsStr>,
        consoles: Option<&Sockets>,
    ) {
        let number = (self.number + self.of).saturating_sub(2 * self.nth + 1);
        let bus = format!("virtio-mmio-bus.{number}");
        let place = Place { nth: self.nth, bus, served, consoles };
        (self.row.qemu)(line, machine, &place);
    }
}

/// Returns the devices of a machine in slot order, without gaps.
pub(crate) fn slots(config: &config::Machine) -> Vec<Slot> {
    let of_row = |row: &'static Row| {
        let of = row.number_of(config);
        (0..of).map(move |nth| (row, nth, of))
    };
    let devices = TABLE.iter().flat_map(of_row).enumerate();
    let slots = devices.map(|(number, (row, nth, of))| Slot { number, row, nth, of });
    slots.collect()
}

impl Row {
    fn number_of(&self, config: &config::Machine) -> usize {
        match self.count {
            Count::One(has) => usize::from(has(config)),
            Count::Many(count) => count(config),
        }
    }
}

/// A board with virtio-mmio slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    /// The owner of the slots in the error message: "of … 8 slots".
    whose: &'static str,
    slots: usize,
}

/// This program's board.
pub(crate) const KVM: Board = Board { whose: "the board's", slots: layout::VIRTIO_SLOTS };

/// QEMU's.
pub(crate) const QEMU: Board = Board { whose: "QEMU's", slots: layout::QEMU_SLOTS };

/// Checks that the devices of a machine fit into a board's slots.
///
/// # Errors
/// There are too many. The message names the kind, and what occupies the other slots.
pub(crate) fn check(config: &config::Machine, board: Board) -> Result<(), Error> {
    let all: usize = TABLE.iter().map(|row| row.number_of(config)).sum();
    if all <= board.slots {
        return Ok(());
    }
    let single = TABLE
        .iter()
        .filter(|row| matches!(row.count, Count::One(_)));
    let single = single.filter(|row| row.number_of(config) > 0);
    let titles: Vec<_> = single.map(|row| row.title).collect();
    let taken = match titles.as_slice() {
        [one] => format!("{one} takes one"),
        several => format!("{} take one each", several.join(" and ")),
    };
    Err(Error::from(ConfigError::TooManyDisks {
        given: match config.cloud_init {
            None => format!("{} disks", config.disks.len()),
            Some(_) => format!("{} disks with that of --cloud-init", config.disk_count()),
        },
        limit: board.slots.saturating_sub(titles.len()),
        whose: board.whose,
        slots: board.slots,
        taken,
    }))
}

/// Returns QEMU's front ends of the devices that can be served.
pub(crate) fn front_ends() -> impl Iterator<Item = &'static str> {
    let served = TABLE.iter().filter_map(|row| row.served.as_ref());
    served.map(|served| served.front_end)
}

/// Creates the device that `hartvisor vhost-user` serves.
///
/// # Errors
/// A file cannot be opened, or another machine uses it.
pub(crate) fn alone(device: &BackEnd) -> Result<Box<dyn VirtioDevice>, Error> {
    match device {
        BackEnd::Block(disk) => disk::alone(disk),
        BackEnd::CloudInit(files) => disk::alone_for_cloud_init(files),
        BackEnd::Net(card) => net::alone(card),
        BackEnd::Rng => Ok(Box::new(Rng::default())),
        BackEnd::Vsock(config) => vsock::alone(config),
    }
}
