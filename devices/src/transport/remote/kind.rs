//! What a driver expects of a device of each type, and what a back end may decide.

use std::sync::Arc;

use crate::net::{self, Link, Mac};
use crate::virtio::{ConfigSpace, DeviceId};

/// A type of device whose queues a back end serves.
pub struct Kind {
    /// The device type.
    pub(crate) id: DeviceId,
    /// The maximum size of each queue. The protocol has no message for what the back end supports.
    pub(crate) queues: Vec<u16>,
    /// The feature bits that are offered if the back end offers them. Others would need more
    /// queues, or messages that are not sent.
    pub(crate) passed: u64,
    /// The feature bits that depend on the configuration space alone.
    pub(crate) added: u64,
    pub(crate) config: Config,
    /// The link, if there is one: it is down while there is no back end.
    pub(crate) link: Option<Arc<Link>>,
}

/// Where the configuration space comes from.
#[derive(Clone)]
pub enum Config {
    /// From the back end, this many bytes.
    Asked(u32),
    /// From the front end.
    Own(Arc<dyn ConfigSpace>),
}

/// The feature bits of the devices, as they are numbered in § 5.
const fn bits(bits: &[u32]) -> u64 {
    let mut mask = 0;
    let mut rest = bits;
    while let [bit, others @ ..] = rest {
        mask |= 1 << *bit;
        rest = others;
    }
    mask
}

impl Kind {
    /// A block device (§ 5.2). Not offered: CONFIG_WCE, as the driver would have to write to the
    /// configuration; MQ; ZONED.
    pub fn block(size: u16) -> Kind {
        Kind {
            id: DeviceId::Block,
            queues: vec![size],
            // SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, DISCARD, WRITE_ZEROES.
            passed: bits(&[1, 2, 4, 5, 6, 9, 10, 13, 14]),
            added: 0,
            // Up to write_zeroes_may_unmap and its padding.
            config: Config::Asked(60),
            link: None,
        }
    }

    /// A network card (§ 5.1) with one pair of queues and no control queue.
    pub fn net(size: u16, mac: Mac, mtu: Option<u16>, offloads: bool) -> Kind {
        use net::feature::{GUEST, HOST, MAC, MRG_RXBUF, MTU, STATUS};
        let link = Arc::new(Link::new(true));
        Kind {
            id: DeviceId::Network,
            queues: vec![size; 2],
            passed: MRG_RXBUF | if offloads { GUEST | HOST } else { 0 },
            added: MAC | STATUS | mtu.map_or(0, |_| MTU),
            config: Config::Own(net::config(mac, mtu, Arc::clone(&link))),
            link: Some(link),
        }
    }

    /// A file system (§ 5.11) with one request queue. The driver mounts it as `tag`, of at most
    /// [`TAG_MAX`](Self::TAG_MAX) bytes.
    pub fn file_system(size: u16, tag: &str) -> Kind {
        // struct virtio_fs_config: the tag and num_request_queues.
        let mut config = tag.as_bytes().to_vec();
        config.resize(Kind::TAG_MAX, 0);
        config.extend(1_u32.to_le_bytes());
        Kind {
            id: DeviceId::FileSystem,
            // High priority, and requests.
            queues: vec![size; 2],
            passed: 0,
            added: 0,
            config: Config::Own(Arc::new(config)),
            link: None,
        }
    }

    /// The longest tag of a file system, in bytes.
    pub const TAG_MAX: usize = 36;

    /// An entropy device (§ 5.4).
    pub fn rng(size: u16) -> Kind {
        Kind {
            id: DeviceId::Entropy,
            queues: vec![size],
            passed: 0,
            added: 0,
            config: Config::Own(Arc::new(Vec::new())),
            link: None,
        }
    }

    /// A socket device (§ 5.10).
    pub fn vsock(size: u16) -> Kind {
        Kind {
            id: DeviceId::Socket,
            queues: vec![size; 3],
            // STREAM, SEQPACKET.
            passed: bits(&[0, 1]),
            added: 0,
            // guest_cid.
            config: Config::Asked(8),
            link: None,
        }
    }
}
