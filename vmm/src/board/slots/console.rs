//! The row of the console.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Model, Parts, Place};
use crate::board::Line;
use crate::config::{self, Target, double_commas};
use crate::error::Error;
use crate::machine::Machine;

pub(super) fn model<'m>(parts: &Parts<'m>, _nth: usize) -> Result<Model<'m>, Error> {
    let consoles = parts
        .consoles
        .ok_or_else(|| Error::Internal("a console that leads nowhere".to_owned()))?;
    Ok(Model {
        attached: Some(Box::new(|transport| consoles.show(transport))),
        ..Model::new(consoles.virtio()?)
    })
}

/// The back ends of QEMU's consoles in another process, as addresses for its -chardev socket.
pub(crate) struct ConsoleSockets {
    /// The virtio console, if it has a back end.
    pub(crate) console: Option<OsString>,
    /// The serial port, unless it shares the virtio console's.
    pub(crate) serial: Option<OsString>,
}

/// Returns the virtio console's back end under QEMU. Firmware uses the serial port, so with firmware
/// that has the terminal alone: QEMU does not report which of the two the guest has open.
pub(crate) fn virtio_target(config: &config::Machine) -> &Target {
    match (&config.console, &config.serial) {
        (Target::Stdio, Target::Stdio) if config.kernel.is_none() => &Target::Null,
        (console, _) => console,
    }
}

/// Adds the virtio console, the serial port (which the firmware uses, too) and their back ends.
/// Without sockets QEMU has the back ends; if both are the terminal, its Ctrl-a c switches the
/// keyboard between them.
pub(super) fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let config = &machine.config;
    let sockets = place.consoles;
    match sockets.and_then(|sockets| Some((sockets.console.as_ref()?, &sockets.serial))) {
        Some((socket, Some(_))) => line.socket("console", socket),
        Some((socket, None)) => line.socket("console,mux=on", socket),
        None => line.chardev("console", virtio_target(config)),
    }
    let serial = match (sockets, virtio_target(config), &config.serial) {
        (Some(ConsoleSockets { serial: Some(socket), .. }), ..) => {
            line.socket("serial", socket);
            "serial"
        }
        (Some(_), ..) | (None, Target::Stdio, Target::Stdio) => "console",
        (None, _, serial) => {
            line.chardev("serial", serial);
            "serial"
        }
    };
    line.add([
        "-serial",
        &format!("chardev:{serial}"),
        "-device",
        &format!("virtio-serial-device,bus={}", place.bus),
        "-device",
        "virtconsole,chardev=console",
    ]);
    for (index, port) in config.ports.iter().enumerate() {
        let id = format!("port{index}");
        // Not QEMU's null chardev: to QEMU it is not connected, so that writers in the guest would
        // block.
        match &port.target {
            Target::Null => line.chardev(&id, &Target::File(Path::new("/dev/null").into())),
            target => line.chardev(&id, target),
        }
        let mut device = OsString::from(format!("virtserialport,chardev={id},name="));
        device.push(double_commas(OsStr::new(&port.name)));
        line.add([OsStr::new("-device"), &device]);
    }
}
