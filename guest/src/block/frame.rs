//! How a request is split into the segments of a chain.

use super::Request;
use crate::{Error, Layout, Region, Segment};

/// Bytes of a request's header: type 4, reserved 4, sector 8.
pub(super) const HEADER: usize = 16;
/// Most segments of one request.
const MAX: usize = 64;

/// A whole request in contiguous memory, and where it is split.
///
/// ```text
///   memory   header 16 │ data … │ status 1
///            └── readable bytes ──┘└ rest ┘   the boundary is always a cut
///   cuts     lengths of the segments, from the first byte on
/// ```
///
/// For a write the data are part of the readable bytes, for a read of the writable rest.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Header, data and status.
    pub memory: &'a Region,
    /// Bytes at the front that the device reads.
    pub readable: usize,
    /// Lengths of the segments in bytes; they must add up to the memory's.
    pub cuts: &'a [usize],
    /// Where the segments' descriptors go.
    pub layout: Layout,
}

impl Frame<'_> {
    /// The last byte.
    pub(super) fn status(&self) -> Result<Region, Error> {
        let len = self.memory.len();
        if len <= HEADER || !(HEADER..len).contains(&self.readable) {
            return Err(Error::Cuts { cuts: self.readable, request: len });
        }
        Ok(self.memory.slice(len - 1..len))
    }

    /// The segments between the cuts.
    pub(super) fn segments(&self) -> Result<Segments, Error> {
        let request = self.memory.len();
        let cuts = self
            .cuts
            .iter()
            .fold(0_usize, |sum, cut| sum.saturating_add(*cut));
        if cuts != request {
            return Err(Error::Cuts { cuts, request });
        }
        let mut segments = Segments::default();
        let mut start = 0;
        for cut in self.cuts {
            let end = start + cut;
            let boundary = self.readable.clamp(start, end);
            if boundary > start {
                segments.push(Segment::readable(&self.memory.slice(start..boundary)))?;
            }
            if end > boundary {
                segments.push(Segment::writable(&self.memory.slice(boundary..end)))?;
            }
            start = end;
        }
        Ok(segments)
    }
}

/// Writes the header of `request` to the first bytes of `memory`.
pub(super) fn write_header(memory: &Region, request: Request) {
    memory.write(0, &request.kind.to_le_bytes());
    memory.write(4, &[0; 4]);
    memory.write(8, &request.sector.to_le_bytes());
}

/// A list of segments of fixed capacity.
pub(super) struct Segments {
    list: [Segment; MAX],
    count: usize,
}

impl Default for Segments {
    fn default() -> Self {
        Self { list: [Segment { address: 0, len: 0, writable: false }; MAX], count: 0 }
    }
}

impl Segments {
    pub(super) fn push(&mut self, segment: Segment) -> Result<(), Error> {
        let error = Error::Chain { segments: MAX + 1, bytes: 0 };
        *self.list.get_mut(self.count).ok_or(error)? = segment;
        self.count += 1;
        Ok(())
    }

    pub(super) fn as_slice(&self) -> &[Segment] {
        self.list.get(..self.count).unwrap_or_default()
    }
}
