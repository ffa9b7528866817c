//! The row of the network cards.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use devices::transport::mmio::Mmio;

use super::{Count, Model, Parts, Place, Row};
use crate::board::Line;
use crate::config::{self, Forward, double_commas};
use crate::error::Error;
use crate::host::net::Card;
use crate::machine::Machine;

pub(super) const ROW: Row = Row {
    name: "net",
    title: "the network cards",
    count: Count::Many(|config| config.nets.len()),
    model,
    qemu,
    served: None,
};

fn model<'m>(parts: &Parts<'m>, nth: usize) -> Result<Model<'m>, Error> {
    let card = parts.machine.cards.get(nth);
    let card = card.ok_or_else(|| Error::Internal(format!("no network card {nth}")))?;
    let device = card.device()?;
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
fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let nth = place.nth;
    let (Some(card), Some(config)) = (machine.cards.get(nth), machine.config.nets.get(nth)) else {
        return;
    };
    // QEMU inherits nothing from a shell that executes the printed command.
    let net = match place.consoles.is_some() {
        true => lent(card, config),
        false => named(config),
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
    let (kind, keys) = net;
    line.add([
        "-netdev",
        &format!("{kind},id=net{nth}{keys}"),
        "-device",
        &device,
    ]);
}

/// QEMU's back end, with a descriptor that it inherits.
fn lent(card: &Card, config: &config::Net) -> (&'static str, String) {
    // Before QEMU is started, all are lent once.
    let fd = card.lend().map_or(-1, |fd| fd.as_raw_fd());
    match config.passt {
        None => ("tap", format!(",fd={fd}")),
        Some(_) => ("stream", format!(",addr.type=fd,addr.str={fd}")),
    }
}

/// QEMU's back end, by names alone. Its own network takes the place of a passt that would have to be
/// started.
fn named(config: &config::Net) -> (&'static str, String) {
    let each = |it: &Forward| format!(",{}", it.for_qemu());
    match (&config.tap, config.fd, &config.passt) {
        (Some(name), ..) => ("tap", format!(",ifname={name},script=no,downscript=no")),
        (_, Some(fd), _) => ("tap", format!(",fd={fd}")),
        (.., Some(socket)) if !config.starts_passt() => {
            let path = double_commas(socket.as_os_str());
            (
                "stream",
                format!(",addr.type=unix,addr.path={}", path.display()),
            )
        }
        _ => ("user", config.forward.iter().map(each).collect()),
    }
}
