//! The row of the network cards.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::Path;

use devices::virtio::VirtioDevice;

use super::remote::follow;
use super::{Count, Model, Parts, Place, Row};
use crate::board::Line;
use crate::config::{self, Forward, double_commas};
use crate::error::Error;
use crate::host::net::Card;
use crate::machine::Machine;

/// QEMU's name of the back end of a card whose queues another process serves.
const VHOST_USER: &str = "vhost-user";

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
    if let Some(remote) = card.remote(&format!("net{nth}")) {
        return Ok(Model::remote(remote?));
    }
    let device = card.device()?;
    let attached = Some(follow(device.link()));
    Ok(Model { attached, ..Model::new(device) })
}

/// Creates the device that `hartvisor vhost-user` serves.
pub(super) fn alone(config: &config::Net) -> Result<Box<dyn VirtioDevice>, Error> {
    Ok(Box::new(Card::open(config, 0)?.device()?))
}

/// QEMU's own device. It gets the descriptor, as the interface has only one user.
fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let nth = place.nth;
    let (Some(card), Some(config)) = (machine.cards.get(nth), machine.config.nets.get(nth)) else {
        return;
    };
    // QEMU inherits nothing from a shell that executes the printed command.
    let net = match place.consoles.is_some() {
        true => lent(card, config, nth),
        false => named(config, nth),
    };
    if net.0 == VHOST_USER {
        let mut address = OsString::from("path=");
        address.push(double_commas(
            config.socket().unwrap_or(Path::new("")).as_os_str(),
        ));
        line.socket(&format!("socket-net{nth}"), &address);
    }
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
fn lent(card: &Card, config: &config::Net, nth: usize) -> (&'static str, String) {
    // Before QEMU is started, all are lent once.
    let fd = card.lend().map_or(-1, |fd| fd.as_raw_fd());
    match config.passt {
        _ if config.vhost_user => (VHOST_USER, format!(",chardev=socket-net{nth}")),
        None => ("tap", format!(",fd={fd}{}", vhost(config))),
        Some(_) => ("stream", format!(",addr.type=fd,addr.str={fd}")),
    }
}

/// QEMU's back end, by names alone. Its own network takes the place of a passt that would have to be
/// started.
fn named(config: &config::Net, nth: usize) -> (&'static str, String) {
    let each = |it: &Forward| format!(",{}", it.for_qemu());
    match (&config.tap, config.fd, &config.passt) {
        (Some(name), ..) => {
            let vhost = vhost(config);
            let keys = format!(",ifname={name},script=no,downscript=no{vhost}");
            ("tap", keys)
        }
        (_, Some(fd), _) => ("tap", format!(",fd={fd}{}", vhost(config))),
        _ if config.vhost_user && config.socket().is_some() => {
            (VHOST_USER, format!(",chardev=socket-net{nth}"))
        }
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

/// QEMU's key for vhost-net.
fn vhost(config: &config::Net) -> &'static str {
    if config.vhost { ",vhost=on" } else { "" }
}
