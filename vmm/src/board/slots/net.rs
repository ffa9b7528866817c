//! The row of the network cards.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use devices::transport::mmio::Mmio;

use super::{Model, Parts, Place};
use crate::board::Line;
use crate::error::Error;
use crate::machine::Machine;

pub(super) fn model<'m>(parts: &Parts<'m>, nth: usize) -> Result<Model<'m>, Error> {
    let card = parts.machine.cards.get(nth);
    let card = card.ok_or_else(|| Error::Internal(format!("no network card {nth}")))?;
    let device = card.device().map_err(crate::board::descriptors)?;
    let link = device.link();
    let attached = move |transport: &Arc<Mmio>| {
        let transport = Arc::downgrade(transport);
        link.on_change(move || {
            if let Some(transport) = transport.upgrade() {
                transport.config_changed();
            }
        });
    };
    Ok(Model { attached: Some(Box::new(attached)), ..Model::new(device) })
}

/// QEMU's own device. It gets the descriptor, as the interface has only one user.
pub(super) fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let nth = place.nth;
    let (Some(card), Some(config)) = (machine.cards.get(nth), machine.config.nets.get(nth)) else {
        return;
    };
    // QEMU inherits nothing from a shell that executes the printed command.
    let from = match (place.consoles, config.fd) {
        (Some(_), _) => format!("fd={}", card.tap.as_fd().as_raw_fd()),
        (None, Some(fd)) => format!("fd={fd}"),
        (None, None) => format!("ifname={},script=no,downscript=no", card.tap.name()),
    };
    let mut device = format!(
        "virtio-net-device,netdev=net{nth},mac={},bus={}",
        card.mac, place.bus
    );
    if let Some(mtu) = card.mtu {
        device += &format!(",host_mtu={mtu}");
    }
    if config.offload_off {
        for offload in ["csum", "tso4", "tso6", "ecn", "ufo"] {
            let host = if offload == "csum" { "" } else { "host_" };
            device += &format!(",{host}{offload}=off,guest_{offload}=off");
        }
    }
    line.add([
        "-netdev",
        &format!("tap,id=net{nth},{from}"),
        "-device",
        &device,
    ]);
}
