//! The row of the shared directories.

use std::os::fd::AsRawFd;

use super::{Count, Model, Place, Row};
use crate::board::Line;
use crate::config::double_commas;
use crate::error::Error;
use crate::machine::Machine;

pub(super) const ROW: Row = Row {
    name: "share",
    title: "the shared directories",
    count: Count::Many(|config| config.shares.len()),
    model: |parts, nth| {
        let directory = parts.machine.directories.get(nth);
        let directory = directory.ok_or_else(|| Error::Internal(format!("no share {nth}")))?;
        Ok(Model::remote(directory.remote(&format!("share{nth}"))?))
    },
    qemu,
    served: None,
};

/// QEMU's front end of a virtiofsd, whose socket it inherits.
fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let nth = place.nth;
    let Some(directory) = machine.directories.get(nth) else {
        return;
    };
    let (id, bus) = (format!("share{nth}"), &place.bus);
    let address = match place.consoles {
        // Before QEMU is started, all are lent once.
        Some(_) => format!("fd={}", directory.lend().map_or(-1, |fd| fd.as_raw_fd())),
        // The printed command inherits nothing.
        None => format!("path={}", directory.socket()),
    };
    line.socket(&id, address.as_ref());
    let tag = double_commas(directory.tag.as_ref());
    let device = format!(
        "vhost-user-fs-device,chardev={id},tag={},bus={bus}",
        tag.display()
    );
    line.add(["-device", &device]);
}
