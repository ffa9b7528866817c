//! `hartvisor vhost-user`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::DiskOption;

const EXAMPLES: &str = "\
Example, with QEMU as the front end (the guest's memory must be shared):
  hartvisor vhost-user --socket disk.sock --device block,path=disk.img,serial=root &
  qemu-system-riscv64 -M virt,memory-backend=ram -m 512M -nographic \\
      -object memory-backend-memfd,id=ram,size=512M,share=on \\
      -global virtio-mmio.force-legacy=false \\
      -chardev socket,id=disk,path=disk.sock,reconnect-ms=100 \\
      -device vhost-user-blk,chardev=disk,bus=virtio-mmio-bus.0,queue-size=256 \\
      -kernel Image -append 'console=ttyS0 root=/dev/vda'

A source of random numbers is --device rng, and -device vhost-user-rng there.";

/// What `hartvisor vhost-user` was asked for.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VhostUser {
    /// The Unix socket where front ends connect: made here, for this user alone, and removed at the end. They are served
    /// one after another
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// The device: a disk, with the same keys behind FILE as --disk of hartvisor run has, or a source of random numbers
    #[arg(
        long,
        value_name = "block,path=FILE[,readonly][,serial=TEXT]|rng",
        value_parser = OsStringValueParser::new().try_map(|text| DeviceOption::parse(&text))
    )]
    pub device: DeviceOption,

    /// End when the first front end has disconnected
    #[arg(long)]
    pub once: bool,
}

/// One `--device` as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceOption {
    /// A disk.
    Block(DiskOption),
    /// A source of random numbers.
    Rng,
}

impl DeviceOption {
    /// Reads `rng`, or `block,path=` and what `--disk` takes.
    fn parse(text: &OsStr) -> Result<Self, String> {
        match text.as_bytes().strip_prefix(b"block,path=") {
            Some(disk) => DiskOption::parse(OsStr::from_bytes(disk)).map(DeviceOption::Block),
            None if text == "rng" => Ok(DeviceOption::Rng),
            None => Err("expected block,path=FILE[,readonly][,serial=TEXT] or rng".into()),
        }
    }
}
