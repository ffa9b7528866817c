//! The row of the console.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Model, Parts, Place};
use crate::board::Line;
use crate::config::{Target, double_commas};
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

/// Adds the virtio console, the serial port (which the firmware uses, too) and their back ends. If
/// both use the terminal, Ctrl-a c switches the keyboard between them, and the virtio console has it
/// first. Firmware uses the serial port. So with firmware the virtio console gets no terminal.
pub(super) fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let config = &machine.config;
    let console = match (&config.console, &config.serial) {
        (Target::Stdio, Target::Stdio) if config.kernel.is_none() => &Target::Null,
        (console, _) => console,
    };
    line.chardev("console", console);
    let serial = match (console, &config.serial) {
        (Target::Stdio, Target::Stdio) => "console",
        (_, serial) => {
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
