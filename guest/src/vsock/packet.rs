//! Packets of the socket device: the header, as fields and as bytes (§5.10.6).

/// Bytes of a header: struct virtio_vsock_hdr.
pub const HEADER: usize = 44;
/// The context ID of the host (§5.10.4).
pub const HOST: u64 = 2;
/// The type of the packets of a stream: VIRTIO_VSOCK_TYPE_STREAM.
pub const STREAM: u16 = 1;

/// Operations (§5.10.6).
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts it.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends it.
    pub const RST: u16 = 3;
    /// The sender will not receive, or not send any more.
    pub const SHUTDOWN: u16 = 4;
    /// Data.
    pub const RW: u16 = 5;
    /// Only the credit in the header.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for that.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a SHUTDOWN (§5.10.6.5).
pub mod shutdown {
    /// The sender will receive no more data.
    pub const RECEIVE: u32 = 1;
    /// The sender will send no more data.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Context ID of the sender.
    pub src_cid: u64,
    /// Context ID of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    /// [`STREAM`], or another type.
    pub kind: u16,
    /// One of [`op`].
    pub op: u16,
    /// For a SHUTDOWN those of [`shutdown`].
    pub flags: u32,
    /// Bytes of the sender's receive buffer.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of it so far. Wraps around.
    pub fwd_cnt: u32,
}

impl Header {
    /// The fields in these bytes.
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The bytes of these fields.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields = [
            self.src_cid.to_le_bytes(),
            self.dst_cid.to_le_bytes(),
            pair(self.src_port, self.dst_port),
            pair(self.len, u32::from(self.op) << 16 | u32::from(self.kind)),
            pair(self.flags, self.buf_alloc),
            pair(self.fwd_cnt, 0),
        ];
        let fields = fields.as_flattened();
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(at, byte)| *at = *byte);
        bytes
    }

    /// A packet without data in the other direction.
    #[must_use]
    pub fn reply(&self, op: u16) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op,
            ..Self::default()
        }
    }
}

fn pair(low: u32, high: u32) -> [u8; 8] {
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

/// Takes the first `N` bytes, of which there are enough.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let (first, rest) = from.split_first_chunk().unwrap_or((&[0; N], &[]));
    *from = rest;
    *first
}
