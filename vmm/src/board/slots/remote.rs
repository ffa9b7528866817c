//! The row of devices that other processes serve.

use std::ffi::OsString;
use std::sync::Arc;

use devices::net::Link;
use devices::transport::mmio::Mmio;

use super::{Attached, Count, Model, Place, Row};
use crate::board::Line;
use crate::config::{RemoteType, double_commas};
use crate::error::Error;
use crate::machine::Machine;

pub(super) const ROW: Row = Row {
    name: "vhost-user",
    title: "the devices of --vhost-user",
    count: Count::Many(|config| config.vhost_user.len()),
    model: |parts, nth| {
        let back_end = parts.machine.back_ends.get(nth);
        let back_end = back_end.ok_or_else(|| Error::Internal(format!("no back end {nth}")))?;
        Ok(Model::remote(back_end.remote(&format!("vhost-user{nth}"))?))
    },
    qemu,
    served: None,
};

/// Makes a change of `link` known to the driver.
pub(super) fn follow<'m>(link: Arc<Link>) -> Attached<'m> {
    Box::new(move |transport: &Arc<Mmio>| {
        let transport = Arc::downgrade(transport);
        link.on_change(move || {
            if let Some(transport) = transport.upgrade() {
                transport.config_changed();
            }
        });
    })
}

/// QEMU's front end of a device whose back end listens on a socket.
fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let nth = place.nth;
    let Some(back_end) = machine.back_ends.get(nth) else {
        return;
    };
    let (config, bus) = (&back_end.config, &place.bus);
    let id = format!("vhost-user{nth}");
    let mut address = OsString::from("path=");
    address.push(double_commas(config.socket.as_os_str()));
    line.socket(&id, &address);
    let size = config.queue_size();
    let device = match config.kind {
        Some(RemoteType::Net) => {
            line.add(["-netdev", &format!("vhost-user,id=net-{id},chardev={id}")]);
            format!(
                "virtio-net-device,netdev=net-{id},mac={},rx_queue_size={size}",
                back_end.mac
            )
        }
        Some(RemoteType::Fs) => {
            let tag = double_commas(config.tag.as_deref().unwrap_or_default().as_ref());
            let tag = tag.display();
            format!("vhost-user-fs-device,chardev={id},tag={tag},queue-size={size}")
        }
        Some(RemoteType::Rng) => format!("vhost-user-rng,chardev={id}"),
        Some(RemoteType::Vsock) => format!("vhost-user-vsock-device,chardev={id}"),
        Some(RemoteType::Blk) | None => {
            format!("vhost-user-blk,chardev={id},num-queues=1,queue-size={size}")
        }
    };
    line.add(["-device", &format!("{device},bus={bus}")]);
}
