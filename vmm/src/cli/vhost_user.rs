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

A random number generator is --device rng here and -device vhost-user-rng in QEMU.";

/// The arguments of `hartvisor vhost-user`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VhostUser {
    /// The Unix socket for front ends. It is created with access for this user only, and removed at
    /// exit. Front ends are served one after another
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// The device: a disk, with the keys of hartvisor run --disk after FILE, the disk of hartvisor
    /// run --cloud-init, with its keys, a network card, with those of --net, a socket device, with
    /// those of --vsock, or a random number generator
    #[arg(
        long,
        value_name = "block,path=FILE[,readonly][,serial=TEXT]|cloud-init,user-data=FILE|net,tap=NAME|vsock,path=SOCK[,cid=N]|rng",
        value_parser = OsStringValueParser::new().try_map(|text| BackEnd::parse(&text))
    )]
    pub device: BackEnd,

    /// Exit when the first front end disconnects
    #[arg(long)]
    pub once: bool,
}

impl From<VhostUser> for config::VhostUser {
    fn from(given: VhostUser) -> Self {
        config::VhostUser { socket: given.socket, device: given.device, once: given.once }
    }
}
