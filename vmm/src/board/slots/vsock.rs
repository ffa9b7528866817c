//! The row of the socket device.

use std::ffi::OsString;

use devices::virtio::VirtioDevice;

use super::{Count, Model, Parts, Place, Row, Served};
use crate::board::Line;
use crate::config;
use crate::error::Error;
use crate::host::vsock::Host;
use crate::machine::Machine;

pub(super) const ROW: Row = Row {
    name: "vsock",
    title: "the socket device",
    count: Count::One(|config| config.vsock.is_some()),
    model,
    qemu,
    served: Some(Served { front_end: "vhost-user-vsock-device", option }),
};

fn model<'m>(parts: &Parts<'m>, _: usize) -> Result<Model<'m>, Error> {
    let host = parts.machine.vsock.as_ref();
    let host = host.ok_or_else(|| Error::Internal("no socket".into()))?;
    Ok(Model::new(
        host.device().map_err(crate::board::descriptors)?,
    ))
}

/// Creates the device that `hartvisor vhost-user` serves.
pub(super) fn alone(config: &config::Vsock) -> Result<Box<dyn VirtioDevice>, Error> {
    let device = Host::open(config)?.device();
    Ok(Box::new(device.map_err(crate::board::descriptors)?))
}

fn option(machine: &Machine, _: usize) -> OsString {
    let mut option = OsString::from("vsock,");
    if let Some(vsock) = &machine.config.vsock {
        option.push(vsock.text());
    }
    option
}

/// QEMU has the front end only.
fn qemu(line: &mut Line, _: &Machine, place: &Place<'_>) {
    if let Some(address) = place.served {
        let bus = &place.bus;
        line.socket("vsock", address);
        line.add([
            "-device",
            &format!("vhost-user-vsock-device,chardev=vsock,bus={bus}"),
        ]);
    }
}
