//! The network device (§ 5.1): one pair of queues, and a back end that takes and gives whole frames.
//!
//! ```text
//!   driver ── queue 1: header, frame ──▶ one writev per frame ──▶ back end
//!   driver ◀── queue 0: header, frame ── one readv per frame ◀── back end
//! ```
//! Frames are neither copied nor kept here, with one exception: the end of a received frame that
//! does not fit into the driver's buffers. A frame is read into as many of them as the last frames
//! took, so the exception is a frame that is longer than those before it. While the back end has no
//! frame, or the driver has no buffer, frames wait in the back end.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{info, warn};

use crate::memory::{Memory, Readable, Writable};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Group, Step};
use crate::virtio::{ConfigSpace, DeviceId, QueueError, Queues, Ready, VirtioDevice};

pub mod rate;
pub mod stream;
pub mod tap;

/// Entries of each queue, as in Firecracker and QEMU.
pub const QUEUE_SIZE: u16 = 256;

/// The queues (§ 5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The back end's files, by their index in [`BackEnd::files`].
const READABLE: usize = 0;
const WRITABLE: usize = 1;

/// Bytes of the header before each frame (§ 5.1.6): struct virtio_net_hdr with num_buffers.
pub const HEADER: usize = 12;

/// The offset of num_buffers in the header.
const NUM_BUFFERS: usize = 10;

/// The longest frame with its header: an IP packet of 64 KiB, as the segments of which it is sent
/// (§ 5.1.6.3.1).
pub const FRAME_MAX: usize = 65_562;

/// The shortest frame that is sent: both addresses and the type.
const FRAME_MIN: u64 = HEADER as u64 + 14;

/// Feature bits (§ 5.1.3).
pub mod feature {
    /// The device takes frames with partial checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with partial checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device tells its maximum transmission unit.
    pub const MTU: u64 = 1 << 3;
    /// The device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes IPv4 TCP segments of any size.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes IPv6 TCP segments of any size.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes IPv4 TCP segments of any size.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes IPv6 TCP segments of any size.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A received frame may fill several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The configuration has a link status.
    pub const STATUS: u64 = 1 << 16;

    /// What the driver takes, if the back end gives it.
    pub const GUEST: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
    /// What the back end takes, if it can.
    pub const HOST: u64 = CSUM | HOST_TSO4 | HOST_TSO6;
}

/// A way out for frames. A frame begins with its header of [`HEADER`] bytes, little-endian.
pub trait BackEnd: Send {
    /// Bits of [`feature::GUEST`] and [`feature::HOST`] that it supports.
    fn offloads(&self) -> u64;

    /// Called with those that the driver accepted. None before, and after a reset.
    fn set_offloads(&mut self, features: u64);

    /// The files to wait for: one for reading frames, one for writing them, then others.
    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)>;

    /// Called when file `index` is ready, before frames are received or sent. Returns whether the
    /// link is up, if that may have changed.
    fn ready(&mut self, index: usize) -> Option<bool> {
        let _ = index;
        None
    }

    /// Receives a frame into `to`, and what does not fit there into `rest`. Returns its length.
    /// `num_buffers` of its header is undefined.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. Another error: there will be none.
    fn receive(&mut self, to: &mut Writable, rest: &mut [u8]) -> io::Result<usize>;

    /// Sends a frame.
    ///
    /// # Errors
    /// `WouldBlock`: try again when the file can be written. Another error: the frame is lost.
    fn send(&mut self, frame: &mut Readable) -> io::Result<()>;

    /// Whether an error of [`receive`](Self::receive) or [`send`](Self::send) means that the
    /// network is gone for good.
    fn is_gone(&self, error: &io::Error) -> bool;
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// The state of the link, for the host.
#[derive(Debug)]
pub struct Link {
    up: AtomicBool,
    /// Frames that were lost: the driver's buffer was too small, or the back end refused them.
    dropped: AtomicU64,
    changed: std::sync::OnceLock<Changed>,
}

/// Called when the link goes down or up.
struct Changed(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Changed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Changed")
    }
}

impl Link {
    /// A link that is `up` until the back end says otherwise.
    pub(crate) fn new(up: bool) -> Link {
        Link {
            up: AtomicBool::new(up),
            dropped: AtomicU64::new(0),
            changed: std::sync::OnceLock::new(),
        }
    }

    /// Makes `changed` be called each time when the link has gone down or up: it notifies the driver
    /// that the configuration has changed. It must not wait for the device.
    pub fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        let _ = self.changed.set(Changed(Box::new(changed)));
    }

    /// Frames that were lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_frame(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn lose(&self, error: &io::Error) {
        if self.set(false) {
            warn!("the network is gone: {error}; the guest sees a link that is down");
        }
    }

    /// Returns whether this is a change.
    pub(crate) fn set(&self, up: bool) -> bool {
        let changes = self.up.swap(up, Ordering::SeqCst) != up;
        if changes && let Some(Changed(changed)) = self.changed.get() {
            changed();
        }
        changes
    }
}

/// A network device.
pub struct Net {
    back_end: Box<dyn BackEnd>,
    mac: Mac,
    mtu: Option<u16>,
    link: Arc<Link>,
    /// Whether MRG_RXBUF was negotiated.
    mergeable: bool,
    rest: Rest,
}

impl Net {
    /// A device with a hardware address, and a maximum transmission unit if that is known. Its link
    /// is `up` until the back end says otherwise.
    pub fn new(back_end: Box<dyn BackEnd>, mac: Mac, mtu: Option<u16>, up: bool) -> Net {
        Net {
            back_end,
            mac,
            mtu,
            link: Arc::new(Link::new(up)),
            mergeable: false,
            rest: Rest {
                bytes: vec![0; FRAME_MAX].into_boxed_slice(),
                done: 0,
                end: 0,
                placed: 0,
                ahead: 0,
            },
        }
    }

    /// Its link, for the host.
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(RECEIVE) else {
            return Ok(());
        };
        let size = usize::from(queue.size());
        queue.drain_groups(self.rest.ahead, |chain, group| {
            if self.rest.is_empty() {
                self.receive_frame(chain, group)
            } else {
                self.rest.continue_in(chain, group, size)
            }
        })
    }

    /// Receives a frame into `chain`, the first of its group, and those behind it.
    fn receive_frame(&mut self, chain: &mut Chain, group: Group<'_>) -> Step {
        let to = chain.writable();
        let here = to.len();
        // A driver must not make such a buffer (§ 5.1.6.3.1). It is returned, since no frame would
        // ever fit.
        if here < HEADER as u64 {
            return Step::Done(0);
        }
        to.note(NUM_BUFFERS);
        if self.mergeable {
            let mut behind = group.ahead.iter_mut();
            while behind.next().is_some_and(|next| to.extend(next.writable())) {}
        }
        let room = to.len();
        let frame = match self.back_end.receive(to, &mut self.rest.bytes) {
            Ok(frame) => frame,
            Err(error) => {
                to.truncate(here);
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.link.lose(&error);
                }
                return Step::Stall;
            }
        };
        let here = usize::try_from(here).unwrap_or(usize::MAX).min(frame);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(frame);
        let written = u32::try_from(here).unwrap_or(u32::MAX);
        // Frames that are shorter than those before them change this slowly.
        self.rest.ahead -= self.rest.ahead.div_ceil(16);
        if here == frame {
            to.put_noted([1, 0]);
            return Step::Done(written);
        }
        if !self.mergeable {
            self.link.drop_frame();
            return Step::Done(0);
        }
        self.rest.placed = room - here;
        (self.rest.done, self.rest.end) = (0, (frame - room).min(FRAME_MAX));
        Step::Part(written)
    }

    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(TRANSMIT) else {
            return Ok(());
        };
        queue.drain(|chain| {
            let frame = chain.readable();
            let sent = match frame.len() {
                ..FRAME_MIN => Err(io::ErrorKind::InvalidData.into()),
                _ => self.back_end.send(frame),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    self.link.drop_frame();
                    if self.back_end.is_gone(&error) {
                        self.link.lose(&error);
                    }
                }
            }
            Some(0)
        })
    }
}

/// The end of a received frame whose beginning is in the first of the driver's buffers.
struct Rest {
    /// So much of it is already in the next buffers.
    placed: usize,
    bytes: Box<[u8]>,
    /// The bytes from here to `end` are left, for the buffers after those.
    done: usize,
    end: usize,
    /// How many more buffers than one the last frames took.
    ahead: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.placed == 0 && self.done == self.end
    }

    fn clear(&mut self) {
        (self.placed, self.done, self.end) = (0, 0, 0);
    }

    /// Fills `chain`, which is not the first of its group, unless that is done. A ring of `size`
    /// buffers that cannot hold the frame gets it without its end.
    fn continue_in(&mut self, chain: &mut Chain, group: Group<'_>, size: usize) -> Step {
        let to = chain.writable();
        let placed = usize::try_from(to.len()).map_or(self.placed, |room| room.min(self.placed));
        let copied = match placed {
            0 => to.write(self.bytes.get(self.done..self.end).unwrap_or_default()),
            _ => 0,
        };
        self.placed -= placed;
        self.done += copied;
        let written = u32::try_from(placed + copied).unwrap_or(0);
        let buffers = group.place + 1;
        if !self.is_empty() && buffers < size {
            return Step::Part(written);
        }
        self.clear();
        self.ahead = self.ahead.max(group.place);
        if let Some(first) = group.first {
            let buffers = u16::try_from(buffers).unwrap_or(u16::MAX);
            first.writable().put_noted(buffers.to_le_bytes());
        }
        Step::Done(written)
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> DeviceId {
        DeviceId::Network
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        let mtu = self.mtu.map_or(0, |_| feature::MTU);
        feature::MAC | feature::STATUS | feature::MRG_RXBUF | mtu | self.back_end.offloads()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        config(self.mac, self.mtu, self.link())
    }

    fn activate(&mut self, features: u64, _memory: &Memory) {
        self.mergeable = features & feature::MRG_RXBUF != 0;
        self.back_end
            .set_offloads(features & (feature::GUEST | feature::HOST));
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match index {
            RECEIVE => self.receive(queues),
            TRANSMIT => self.transmit(queues),
            _ => Ok(()),
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        self.back_end.files()
    }

    fn handle_event(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        if let Some(up) = self.back_end.ready(index)
            && self.link.set(up)
        {
            info!("the link is {}", if up { "up" } else { "down" });
        }
        if index != WRITABLE {
            self.receive(queues)?;
        }
        if index != READABLE {
            self.transmit(queues)?;
        }
        Ok(())
    }

    fn queue_reset(&mut self, index: usize) {
        if index == RECEIVE {
            self.rest.clear();
        }
    }

    fn reset(&mut self) {
        self.mergeable = false;
        self.rest.clear();
        self.back_end.set_offloads(0);
    }
}

/// The configuration space of a network card, whose status follows `link`.
pub(crate) fn config(mac: Mac, mtu: Option<u16>, link: Arc<Link>) -> Arc<dyn ConfigSpace> {
    Arc::new(Config { mac, mtu: mtu.unwrap_or(0), link })
}

/// struct virtio_net_config (§ 5.1.4) up to mtu.
struct Config {
    mac: Mac,
    mtu: u16,
    link: Arc<Link>,
}

impl Config {
    const LEN: usize = 12;
    /// VIRTIO_NET_S_LINK_UP.
    const LINK_UP: u16 = 1;
}

impl ConfigSpace for Config {
    fn len(&self) -> usize {
        Config::LEN
    }

    fn read(&self, offset: usize, data: &mut [u8]) {
        let status = if self.link.up.load(Ordering::SeqCst) {
            Config::LINK_UP
        } else {
            0
        };
        // max_virtqueue_pairs is not valid without MQ and RSS.
        let [status, pairs, mtu] = [status, 1, self.mtu].map(u16::to_le_bytes);
        [&self.mac.0[..], &status, &pairs, &mtu]
            .concat()
            .read(offset, data);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "net_test.rs"]
mod tests;
