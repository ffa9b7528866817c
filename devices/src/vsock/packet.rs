//! The header of a packet (§ 5.10.6), as bytes and as fields.

use std::io::Write;

/// Its length in bytes.
pub(super) const LEN: usize = 44;

/// The type of a packet of a stream (§ 5.10.6).
pub(super) const STREAM: u16 = 1;

/// Operations (§ 5.10.6).
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RST: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const RW: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a SHUTDOWN (§ 5.10.6.5).
pub(super) mod shutdown {
    /// The sender will receive no more data.
    pub(in super::super) const RECEIVE: u32 = 1;
    /// The sender will send no more data.
    pub(in super::super) const SEND: u32 = 2;
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// struct virtio_vsock_hdr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn parse(bytes: [u8; LEN]) -> Header {
        let rest = &mut bytes.as_slice();
        Header {
            src_cid: u64::from_le_bytes(take(rest)),
            dst_cid: u64::from_le_bytes(take(rest)),
            src_port: u32::from_le_bytes(take(rest)),
            dst_port: u32::from_le_bytes(take(rest)),
            len: u32::from_le_bytes(take(rest)),
            kind: u16::from_le_bytes(take(rest)),
            op: u16::from_le_bytes(take(rest)),
            flags: u32::from_le_bytes(take(rest)),
            buf_alloc: u32::from_le_bytes(take(rest)),
            fwd_cnt: u32::from_le_bytes(take(rest)),
        }
    }

    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            // The fields have LEN bytes together.
            let _ = rest.write_all(field);
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Takes the first `N` bytes, of which there are enough.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    match from.split_first_chunk() {
        Some((first, rest)) => {
            *from = rest;
            *first
        }
        None => [0; N],
    }
}
