//! The socket device (§ 5.10): streams between the guest and Unix sockets of the host, without a
//! driver in the host's kernel.
//!
//! ```text
//!   driver ── tx: header, data ──▶ writev ──▶ SOCK_PORT, or a connection made through SOCK
//!   driver ◀── rx: header, data ── readv  ◀── the same
//! ```
//! A host program connects to SOCK and writes `CONNECT PORT`. A guest's connection to a port of the
//! host goes to the Unix socket SOCK_PORT. This is the protocol of Firecracker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use crate::virtio::{ConfigSpace, DeviceId, QueueError, Queues, Ready, VirtioDevice};

mod connection;
mod host;
mod packet;
mod table;

use packet::{Header, LEN};
use table::Table;

/// The queues (§ 5.10.2). The device has no events to report: a guest is never moved to another
/// host.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const SIZES: [u16; 3] = [256, 256, 16];

/// The lowest context ID of a guest. Those below are reserved (§ 5.10.4).
pub const CID_MIN: u32 = 3;

/// The highest: 2^32 - 1 stands for any.
pub const CID_MAX: u32 = u32::MAX - 1;

/// The socket of the host to which its programs connect.
pub trait Listener: AsFd + Send + Sync {
    /// Accepts a connection as a non-blocking stream. Returns `None` if there is none.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    fn accept(&self) -> io::Result<Option<UnixStream>>;
}

/// A socket device.
pub struct Vsock {
    cid: u32,
    table: Table,
}

impl Vsock {
    /// A device for the guest with context ID `cid`. Host programs connect to `listener`, which is
    /// at `path`.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(cid: u32, listener: Arc<dyn Listener>, path: PathBuf) -> io::Result<Vsock> {
        Ok(Vsock { cid, table: Table::new(cid.into(), listener, path)? })
    }

    /// Takes packets of the guest. Returns whether it stopped for lack of room for the answers.
    fn transmit(&mut self, queues: &mut Queues) -> Result<bool, QueueError> {
        let mut full = false;
        if let Some(queue) = queues.get(TRANSMIT) {
            queue.drain(|chain| {
                full = !self.table.has_room();
                if full {
                    return None;
                }
                let packet = chain.readable();
                if let Some(header) = packet.take::<LEN>() {
                    self.table.receive(&Header::parse(header), packet);
                }
                Some(0)
            })?;
        }
        Ok(full)
    }

    /// Gives the guest packets while there are some, and buffers for them.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        let Some(queue) = queues.get(RECEIVE) else {
            return Ok(());
        };
        queue.drain(|chain| {
            let to = chain.writable();
            // Such a buffer is returned, since no data would ever fit.
            if to.len() <= LEN as u64 {
                return Some(0);
            }
            self.table.send(to)
        })
    }

    fn serve(&mut self, queues: &mut Queues) -> Result<(), QueueError> {
        // The second time is for packets that waited until the guest took answers. More would not
        // help: there is room for the answers to a whole ring.
        let full = self.transmit(queues)?;
        self.receive(queues)?;
        if full {
            self.transmit(queues)?;
            self.receive(queues)?;
        }
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::Socket
    }

    fn queues(&self) -> &[u16] {
        &SIZES
    }

    /// Streams need no feature (§ 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    /// struct virtio_vsock_config (§ 5.10.4).
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(u64::from(self.cid).to_le_bytes().to_vec())
    }

    fn process_queue(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        match index {
            RECEIVE | TRANSMIT => self.serve(queues),
            _ => Ok(()),
        }
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        vec![(self.table.file(), Ready::Read)]
    }

    fn handle_event(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueError> {
        self.table.poll();
        self.serve(queues)
    }

    /// The driver has forgotten all connections.
    fn reset(&mut self) {
        self.table.clear();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "vsock_test.rs"]
mod tests;
