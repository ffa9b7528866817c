//! The row of the memory balloon.

use devices::balloon::{Balloon, feature};
use log::info;

use super::{Count, Model, Parts, Place, Row};
use crate::board::Line;
use crate::error::Error;
use crate::host;
use crate::machine::Machine;

pub(super) const ROW: Row = Row {
    name: "balloon",
    title: "the balloon (only with --balloon)",
    count: Count::One(|config| config.balloon.is_some()),
    model,
    qemu,
    served: None,
};

fn model<'m>(parts: &Parts<'m>, _nth: usize) -> Result<Model<'m>, Error> {
    let config = &parts.machine.config;
    let none = || Error::Internal("no balloon".to_owned());
    let balloon = config.balloon.as_ref().ok_or_else(none)?;
    let mut features = feature::STATS_VQ;
    if balloon.deflate_on_oom {
        features |= feature::DEFLATE_ON_OOM;
    }
    if balloon.reports(&config.memory) {
        features |= feature::PAGE_REPORTING;
    }
    let device = Balloon::new(features).map_err(crate::board::descriptors)?;
    let (resized, reported) = (device.target(), device.target());
    // The file may have changed since the guest's last start.
    let read = move || {
        let bytes = host::balloon::size_now(balloon, &config.memory);
        let changed = bytes.is_some_and(|bytes| resized.set(bytes));
        if changed {
            info!("balloon: {resized}");
        }
        changed
    };
    read();
    let report = move || {
        info!("balloon: {reported}");
        reported.request_statistics();
    };
    Ok(Model {
        resized: Some(Box::new(read)),
        report: Some(Box::new(report)),
        ..Model::new(device)
    })
}

/// QEMU's own device. Its size is set through QMP.
fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let Some(balloon) = &machine.config.balloon else {
        return;
    };
    let on = |on| if on { "on" } else { "off" };
    let device = format!(
        "virtio-balloon-device,deflate-on-oom={},free-page-reporting={},bus={}",
        on(balloon.deflate_on_oom),
        on(balloon.reports(&machine.config.memory)),
        place.bus
    );
    line.add(["-device", &device]);
}
