//! The row of the disks.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use devices::block;
use devices::virtio::VirtioDevice;
use log::{info, warn};

use super::{Model, Parts, Place};
use crate::board::Line;
use crate::config::{self, CloudInit, DiskFormat, double_commas};
use crate::error::Error;
use crate::host::cloud_init;
use crate::host::disk::BackingFile;
use crate::machine::{Disk, Machine};

pub(super) fn model<'m>(parts: &Parts<'m>, nth: usize) -> Result<Model<'m>, Error> {
    let disk = parts.machine.disks.get(nth);
    let disk = disk.ok_or_else(|| Error::Internal(format!("no disk {nth}")))?;
    let device = disk.device().map_err(crate::board::descriptors)?;
    let shared = device.shared_config();
    let resized = move || match disk.length() {
        Ok(bytes) if shared.resize(bytes) => {
            let sectors = shared.capacity();
            info!("disk {:?} now has {sectors} sectors", disk.config.path);
            true
        }
        Ok(_) => false,
        Err(error) => {
            let path = &disk.config.path;
            warn!("cannot read the size of disk {path:?}: {error}");
            false
        }
    };
    Ok(Model { resized: Some(Box::new(resized)), ..Model::new(device) })
}

pub(super) fn alone(disk: &config::Disk) -> Result<Box<dyn VirtioDevice>, Error> {
    // The front end knows the number of vCPUs and requests as many queues as it needs, up to
    // `queues`.
    let disk = Disk::open(disk, 1)?;
    disk.lock()?;
    Ok(Box::new(disk.device().map_err(opened)?))
}

pub(super) fn alone_for_cloud_init(files: &CloudInit) -> Result<Box<dyn VirtioDevice>, Error> {
    Ok(Box::new(cloud_init::disk(files)?.device().map_err(opened)?))
}

fn opened(source: io::Error) -> Error {
    Error::host("open a disk")(source)
}

pub(super) fn option(machine: &Machine, nth: usize) -> OsString {
    if let Some(files) = &machine.config.cloud_init
        && nth == machine.config.disks.len()
    {
        let mut option = OsString::from("cloud-init,");
        option.push(files.text());
        return option;
    }
    let mut option = OsString::from("block,path=");
    if let Some(disk) = machine.disks.get(nth) {
        option.push(disk.option());
    }
    option
}

pub(super) fn qemu(line: &mut Line, machine: &Machine, place: &Place<'_>) {
    let id = format!("disk{}", place.nth);
    match (machine.disks.get(place.nth), place.served) {
        (Some(disk), Some(address)) => {
            line.socket(&id, address);
            // The back end supplies everything else.
            let (size, count, bus) = (block::QUEUE_SIZE, disk.queues, &place.bus);
            let device = format!(
                "vhost-user-blk,chardev={id},queue-size={size},num-queues={count},bus={bus}"
            );
            line.add(["-device", &device]);
        }
        (Some(disk), None) => qemus_own(line, disk, &id, &place.bus),
        (None, _) => {}
    }
}

fn qemus_own(line: &mut Line, disk: &Disk, id: &str, bus: &str) {
    let config = &disk.config;
    let readonly = if config.readonly { "on" } else { "off" };
    let direct = if config.direct {
        ",cache.direct=on"
    } else {
        ""
    };
    let mut blockdev = OsString::new();
    let how = format!(",node-name={id},read-only={readonly},discard=unmap{direct}");
    layer(
        &mut blockdev,
        "",
        &how,
        disk,
        (disk.format, &disk.file, &config.path),
    );
    // QEMU then does not use the names that are in the images.
    let mut prefix = String::new();
    for BackingFile { path, file, format } in &disk.backing {
        prefix += "backing.";
        blockdev.push(",");
        let how = format!(",{prefix}read-only=on");
        layer(&mut blockdev, &prefix, &how, disk, (*format, file, path));
    }
    let mut device = OsString::from(format!("virtio-blk-device,drive={id},bus={bus}"));
    if let Some(serial) = &config.serial {
        device.push(",serial=");
        device.push(double_commas(OsStr::new(serial)));
    }
    if config.block_size != 512 {
        let size = config.block_size;
        device.push(format!(
            ",logical_block_size={size},physical_block_size={size}"
        ));
    }
    if config.write_through {
        device.push(",write-cache=off");
    }
    if disk.queues > 1 {
        device.push(format!(",num-queues={}", disk.queues));
    }
    line.add([
        OsStr::new("-blockdev"),
        &blockdev,
        OsStr::new("-device"),
        &device,
    ]);
}

/// Adds a file of a disk, and its format. Not -drive file=, which takes a name such as nbd:a for a
/// protocol.
fn layer(
    blockdev: &mut OsString,
    prefix: &str,
    how: &str,
    disk: &Disk,
    (format, file, path): (DiskFormat, &File, &Path),
) {
    let format = format.name();
    let driver = match file.metadata() {
        Ok(metadata) if metadata.file_type().is_block_device() => "host_device",
        _ => "file",
    };
    let locking = match disk.config.lock {
        true => String::new(),
        false => format!(",{prefix}file.locking=off"),
    };
    blockdev.push(format!(
        "{prefix}driver={format}{how}{locking},{prefix}file.driver={driver},{prefix}file.filename="
    ));
    blockdev.push(double_commas(path.as_os_str()));
}
