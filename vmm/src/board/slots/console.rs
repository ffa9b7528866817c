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

/// The back ends of QEMU's consoles and ports in another process.
pub(crate) struct Sockets {
    pub(crate) consoles: ConsoleSockets,
    /// By the port's index, as addresses for QEMU's -chardev socket. `None`: QEMU opens it.
    pub(crate) ports: Vec<Option<OsString>>,
}

/// The back ends of the consoles, as addresses for QEMU's -chardev socket.
pub(crate) enum ConsoleSockets {
    /// One each. The virtio console has none if its target is null.
    Apart { serial: OsString, console: Option<OsString> },
    /// One for both.
    Shared(OsString),
}

/// Returns the virtio console's back end under QEMU. With firmware, only the serial
/// port uses the terminal: firmware needs it, and QEMU does not report which of the two the guest
/// has open.
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
    let virtio = virtio_target(config);
    let serial = match place.consoles.map(|it| &it.consoles) {
        Some(ConsoleSockets::Shared(socket)) => {
            line.socket("console", socket);
            "console"
        }
        Some(ConsoleSockets::Apart { serial, console }) => {
            match console {
                Some(socket) => line.socket("console", socket),
                None => line.chardev("console", virtio),
            }
            line.socket("serial", serial);
            "serial"
        }
        None => {
            line.chardev("console", virtio);
            match (virtio, &config.serial) {
                (Target::Stdio, Target::Stdio) => "console",
                (_, serial) => {
                    line.chardev("serial", serial);
                    "serial"
                }
            }
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
        let socket = place.consoles.and_then(|it| it.ports.get(index)?.as_ref());
        match (socket, &port.target) {
            (Some(socket), _) => line.socket(&id, socket),
            // Not QEMU's null chardev: to QEMU it is not connected, so that writers in the guest
            // would block.
            (None, Target::Null) => {
                line.chardev(&id, &Target::File(Path::new("/dev/null").into()));
            }
            (None, target) => line.chardev(&id, target),
        }
        let mut device = OsString::from(format!("virtserialport,chardev={id},name="));
        device.push(double_commas(OsStr::new(&port.name)));
        line.add([OsStr::new("-device"), &device]);
    }
}
