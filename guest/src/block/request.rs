//! What a request asks for, and how it ended.

use crate::Error;

/// What a request asks for (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `type`, one of the constants here or anything else.
    pub kind: u32,
    /// First sector, in units of 512 bytes.
    pub sector: u64,
}

impl Request {
    /// `type` of a read.
    pub const IN: u32 = 0;
    /// `type` of a write.
    pub const OUT: u32 = 1;
    /// `type` of a flush.
    pub const FLUSH: u32 = 4;
    /// `type` that asks for the device's identity.
    pub const GET_ID: u32 = 8;
    /// `type` that discards sectors.
    pub const DISCARD: u32 = 11;
    /// `type` that makes sectors read as zeroes.
    pub const WRITE_ZEROES: u32 = 13;

    /// Reads from `sector` on.
    pub const fn read(sector: u64) -> Self {
        Self { kind: Self::IN, sector }
    }

    /// Writes from `sector` on.
    pub const fn write(sector: u64) -> Self {
        Self { kind: Self::OUT, sector }
    }

    /// Makes all completed writes durable.
    pub const fn flush() -> Self {
        Self { kind: Self::FLUSH, sector: 0 }
    }

    /// Asks for the identity.
    pub const fn id() -> Self {
        Self { kind: Self::GET_ID, sector: 0 }
    }
}

/// How a request ended (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// An error of the device or of the request.
    IoErr,
    /// The device does not know such requests.
    Unsupp,
    /// A status that is not in the specification; 0xff if the device wrote none.
    Other(u8),
}

impl From<u8> for Status {
    fn from(status: u8) -> Self {
        match status {
            0 => Self::Ok,
            1 => Self::IoErr,
            2 => Self::Unsupp,
            other => Self::Other(other),
        }
    }
}

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub status: Status,
    /// Bytes that the device wrote, the status included.
    pub written: u32,
}

/// Checks that a request succeeded, with the right number of bytes.
pub(super) fn check(done: Done, expected: usize) -> Result<(), Error> {
    let expected = expected as u64;
    match done.status {
        Status::Ok if u64::from(done.written) < expected => {
            Err(Error::Short { written: done.written, expected })
        }
        Status::Ok => Ok(()),
        other => Err(Error::Request(other)),
    }
}
