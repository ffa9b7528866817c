//! `hartvisor vhost-user`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::config::{self, BackEnd};

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
        value_parser = OsStringValueParser::new().try_map(|text| BackEnd::parse(&text))
    )]
    pub device: BackEnd,

    /// End when the first front end has disconnected
    #[arg(long)]
    pub once: bool,
}

impl From<VhostUser> for config::VhostUser {
    fn from(given: VhostUser) -> Self {
        config::VhostUser {
            socket: given.socket,
            device: given.device,
            once: given.once,
        }
    }
}
