//! One stream between a port of the guest and a Unix socket of the host.
//!
//! ```text
//!                  REQUEST sent        RESPONSE
//!   Greeting ──▶ Request ──▶ Requested ──▶ Open ──▶ Detached
//!   CONNECT line              RESPONSE sent ▲       the guest is done, and the host
//!                Response ──────────────────┘       has not taken all bytes yet
//! ```
//! What the guest is to be sent next is not queued but follows from the fields, so that a guest
//! that takes no packets costs nothing. Its data is read from the socket when it has a buffer.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::packet::{Header, LEN, op, shutdown};
use crate::memory::{Readable, Writable};

/// Bytes from the guest that a connection keeps while the host does not take them: our buf_alloc.
pub(super) const BUFFER: u32 = 64 << 10;

/// The most data of a packet: VIRTIO_VSOCK_MAX_PKT_BUF_SIZE.
pub(super) const DATA_MAX: u32 = 64 << 10;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host has not said yet to which port it connects.
    Greeting,
    /// The guest is to be sent a REQUEST.
    Request,
    /// The guest has not answered it yet.
    Requested,
    /// The guest is to be sent a RESPONSE.
    Response,
    /// Both sides may send.
    Open,
    /// The guest has forgotten the connection.
    Detached,
}

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    /// When it ends unless the peer has acted.
    pub(super) deadline: Option<Instant>,
    /// Whether it is in the list of those that may have a packet for the guest.
    pub(super) queued: bool,
    /// Whether the socket is watched for room.
    pub(super) watched: bool,

    /// The socket may have bytes, or has ended.
    readable: bool,
    /// The host has closed its socket.
    hung_up: bool,
    /// What the host will not do any more, and what of it the guest was told: flags of SHUTDOWN.
    host_done: u32,
    told: u32,
    /// What the guest will not do any more.
    guest_done: u32,

    /// Bytes sent to the guest, and what the guest said of its buffer (§ 5.10.6.3). All counters
    /// wrap.
    sent: u32,
    guest_alloc: u32,
    guest_forwarded: u32,
    /// The guest was asked for more credit.
    asked: bool,

    /// Bytes from the guest that the host has not taken, in memory that is allocated for the first.
    buffer: VecDeque<u8>,
    /// Bytes from the guest that the host has taken, and how many of them the guest was told.
    forwarded: u32,
    announced: u32,
    /// The guest has asked for our credit, or may need it.
    pub(super) owes_credit: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, phase: Phase, ports: Ports) -> Connection {
        Connection {
            stream,
            ports,
            phase,
            deadline: None,
            queued: false,
            watched: false,
            readable: true,
            hung_up: false,
            host_done: 0,
            told: 0,
            guest_done: 0,
            sent: 0,
            guest_alloc: 0,
            guest_forwarded: 0,
            asked: false,
            buffer: VecDeque::new(),
            forwarded: 0,
            announced: 0,
            owes_credit: false,
        }
    }

    /// Whether all bytes from the guest were taken.
    pub(super) fn is_flushed(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the guest was told that the host is done, which it answers with an RST.
    pub(super) fn is_ending(&self) -> bool {
        self.told == shutdown::BOTH
    }

    /// Opens it for data: the guest has accepted it. The host is told the port of its end.
    pub(super) fn accepted(&mut self) {
        self.phase = Phase::Open;
        self.deadline = None;
        let answer = format!("OK {}\n", self.ports.host);
        // The first bytes fit into a socket. If the host has closed it already, what it had written
        // before still goes to the guest.
        let _ = (&self.stream).write(answer.as_bytes());
    }

    /// The socket may have bytes, or has ended.
    pub(super) fn may_read(&mut self, hung_up: bool) {
        self.readable = true;
        self.hung_up |= hung_up;
    }

    /// Bytes that the guest has room for. Impossible values of the guest are no room.
    fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_alloc.saturating_sub(in_flight)
    }

    /// Takes the guest's credit from the header of any packet.
    pub(super) fn update_credit(&mut self, header: &Header) {
        (self.guest_alloc, self.guest_forwarded) = (header.buf_alloc, header.fwd_cnt);
        if self.credit() > 0 {
            self.asked = false;
        }
    }

    /// Takes data from the guest: what the socket does not take is kept. `None`: it is more than
    /// fits, or the guest had said that it sends no more.
    pub(super) fn receive(&mut self, data: &mut Readable) -> Option<()> {
        // No more than DATA_MAX.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let room = (BUFFER as usize).saturating_sub(self.buffer.len());
        if len as usize > room || self.guest_done & shutdown::SEND != 0 {
            return None;
        }
        if self.host_done & shutdown::RECEIVE != 0 {
            self.took(len);
            return Some(());
        }
        if self.buffer.is_empty() && len > 0 {
            match data.write_to(self.stream.as_fd()) {
                Ok(count) => self.took(u32::try_from(count).unwrap_or(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.host_done |= shutdown::RECEIVE;
                    self.took(len);
                    return Some(());
                }
            }
        }
        if !data.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BUFFER as usize);
            }
            let mut rest = vec![0; usize::try_from(data.len()).unwrap_or(0)];
            data.read(&mut rest);
            self.buffer.extend(rest);
        }
        Some(())
    }

    /// Gives the host what it did not take before.
    pub(super) fn flush(&mut self) {
        while !self.buffer.is_empty() {
            let (first, _) = self.buffer.as_slices();
            match (&self.stream).write(first) {
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.took(u32::try_from(count).unwrap_or(0));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.host_done |= shutdown::RECEIVE;
                    self.took(u32::try_from(self.buffer.len()).unwrap_or(0));
                    self.buffer.clear();
                }
            }
        }
        self.buffer = VecDeque::new();
        self.finish_sending();
    }

    /// Counts bytes that the guest may send again. It is told once they are half of the buffer: a
    /// guest without credit has sent all of it, so this always comes.
    fn took(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
        self.owes_credit |= self.forwarded.wrapping_sub(self.announced) >= BUFFER / 2;
    }

    /// Takes a SHUTDOWN of the guest. Returns whether it is done in both directions.
    pub(super) fn shut_down(&mut self, flags: u32) -> bool {
        self.guest_done |= flags & shutdown::BOTH;
        if self.guest_done & shutdown::RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        if self.buffer.is_empty() {
            self.finish_sending();
        }
        self.guest_done == shutdown::BOTH
    }

    /// The host sees the end of the data behind the last byte.
    fn finish_sending(&self) {
        if self.guest_done & shutdown::SEND != 0 {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The next packet for the guest: its operation, flags and bytes of data, which are in `to`
    /// behind the place of the header. `None`: there is nothing to send now.
    pub(super) fn next_packet(&mut self, to: &Writable) -> Option<(u16, u32, u32)> {
        let (next, first) = match self.phase {
            Phase::Request => (Phase::Requested, Some((op::REQUEST, 0, 0))),
            Phase::Response => (Phase::Open, Some((op::RESPONSE, 0, 0))),
            Phase::Open => (Phase::Open, None),
            Phase::Greeting | Phase::Requested | Phase::Detached => return None,
        };
        self.phase = next;
        if first.is_some() {
            return first;
        }
        let credit = self.credit();
        if self.guest_done & shutdown::RECEIVE != 0 {
            self.readable = false;
            if self.hung_up {
                self.host_done = shutdown::BOTH;
            }
        } else if self.readable && credit > 0 {
            let limit = credit.min(DATA_MAX) as usize;
            match to.read_from_behind(LEN, limit, self.stream.as_fd()) {
                // No more than the limit.
                Ok(count @ 1..) => {
                    let count = u32::try_from(count).unwrap_or(0);
                    self.sent = self.sent.wrapping_add(count);
                    return Some((op::RW, 0, count));
                }
                Ok(0) if !self.hung_up => self.host_done |= shutdown::SEND,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => self.host_done = shutdown::BOTH,
            }
            self.readable = false;
        }
        if self.told != self.host_done {
            self.told = self.host_done;
            return Some((op::SHUTDOWN, self.told, 0));
        }
        if self.owes_credit {
            return Some((op::CREDIT_UPDATE, 0, 0));
        }
        if self.readable && !self.asked {
            self.asked = true;
            return Some((op::CREDIT_REQUEST, 0, 0));
        }
        None
    }

    /// Our buffer and how much of it is free, for the header of a packet that is sent now.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        self.owes_credit = false;
        (BUFFER, self.forwarded)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "connection_test.rs"]
mod tests;
