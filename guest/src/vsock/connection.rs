//! The driver's state of one stream: its phase, its credit in both directions (§5.10.6.3), and the
//! bytes that were received and not taken yet.

use super::packet::{Header, op, shutdown};
use crate::Region;
use crate::mmio::low;

/// Bytes that a stream keeps: its `buf_alloc`.
pub const BUFFER: usize = 4096;

/// The ports of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) own: u32,
    pub(super) peer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// We have sent a REQUEST.
    Requested,
    /// The peer has, and the program has not taken the stream yet.
    Incoming,
    /// The program has it, and both sides may send.
    Open,
    /// An RST was sent or received.
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    /// What we and the peer will not do any more: flags of SHUTDOWN.
    pub(super) done: u32,
    pub(super) peer_done: u32,
    /// We have asked for credit, and got none yet.
    pub(super) asked: bool,
    /// Bytes that we have sent. All counters wrap around.
    sent: u32,
    peer_alloc: u32,
    peer_forwarded: u32,
    /// Bytes that the program has taken, and how many of them the peer was told.
    forwarded: u32,
    announced: u32,
    /// A ring of [`BUFFER`] bytes, with `len` bytes from `start` on.
    memory: Region,
    start: usize,
    len: usize,
}

impl Connection {
    pub(super) fn new(memory: Region, ports: Ports, phase: Phase) -> Self {
        Self {
            ports,
            phase,
            done: 0,
            peer_done: 0,
            asked: false,
            sent: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
            forwarded: 0,
            announced: 0,
            memory,
            start: 0,
            len: 0,
        }
    }

    /// Bytes that the peer has room for. Impossible values are no room.
    pub(super) fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_alloc.saturating_sub(in_flight) as usize
    }

    /// Takes the peer's credit from the header of any packet.
    pub(super) fn update_credit(&mut self, header: &Header) {
        (self.peer_alloc, self.peer_forwarded) = (header.buf_alloc, header.fwd_cnt);
        self.asked &= self.credit() == 0;
    }

    /// Counts bytes that are sent.
    pub(super) fn send(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Our credit: `buf_alloc` and `fwd_cnt` of a packet that is sent now.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (low(BUFFER as u64), self.forwarded)
    }

    /// Whether the peer should be told that there is room again: half of the buffer. A peer without
    /// credit has filled all of it, so this always comes.
    pub(super) fn owes_credit(&self) -> bool {
        let unannounced = self.forwarded.wrapping_sub(self.announced);
        let may_send = self.phase == Phase::Open && self.peer_done & shutdown::SEND == 0;
        may_send && unannounced as usize >= BUFFER / 2
    }

    /// Handles a packet of the stream whose data was stored. Returns the operation of the answer.
    pub(super) fn handle(&mut self, header: &Header) -> Option<u16> {
        let live = matches!(self.phase, Phase::Open | Phase::Incoming);
        match header.op {
            op::RESPONSE if self.phase == Phase::Requested => self.phase = Phase::Open,
            op::RW if live => {}
            op::CREDIT_UPDATE if live => {}
            op::CREDIT_REQUEST if live => return Some(op::CREDIT_UPDATE),
            op::SHUTDOWN if live => {
                self.peer_done |= header.flags & shutdown::BOTH;
                if self.peer_done == shutdown::BOTH {
                    self.phase = Phase::Closed;
                    return Some(op::RST);
                }
            }
            op::RST => self.phase = Phase::Closed,
            _ => {
                self.phase = Phase::Closed;
                return Some(op::RST);
            }
        }
        None
    }

    /// Stores `len` bytes, in portions that `read` copies. Returns false if there is no room.
    pub(super) fn store(&mut self, len: usize, mut read: impl FnMut(usize, &mut [u8])) -> bool {
        if len > BUFFER - self.len {
            return false;
        }
        let mut portion = [0; 256];
        let mut at = 0;
        while at < len {
            let place = (self.start + self.len) % BUFFER;
            let count = portion.len().min(len - at).min(BUFFER - place);
            let bytes = portion.get_mut(..count).unwrap_or_default();
            read(at, bytes);
            self.memory.write(place, bytes);
            self.len += count;
            at += count;
        }
        true
    }

    /// Takes received bytes. Returns their number.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let mut taken = 0;
        while self.len > 0 && taken < into.len() {
            let count = self.len.min(into.len() - taken).min(BUFFER - self.start);
            let bytes = into.get_mut(taken..taken + count).unwrap_or_default();
            self.memory.read(self.start, bytes);
            self.start = (self.start + count) % BUFFER;
            self.len -= count;
            taken += count;
        }
        self.forwarded = self.forwarded.wrapping_add(low(taken as u64));
        taken
    }
}
