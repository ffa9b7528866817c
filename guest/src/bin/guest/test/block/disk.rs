//! A disk under test, its scratch area, and patterns to write there.

use guest::block::{Done, Frame, Request, SECTOR, Status};
use guest::fdt::Slot;
use guest::tap::Failure;
use guest::virtio::device;
use guest::{Block, Layout, Region, Segment, block, ensure, irq};

use super::super::{Registers, Rig, deadline, devices};

/// Entries of the queue.
pub(super) const QUEUE_SIZE: u16 = 64;
/// Most sectors of the scratch area.
const SCRATCH: u64 = 32;
/// Bytes of a frame without the data: header and status.
const AROUND: usize = 17;
/// Bytes of the header.
const HEADER: usize = 16;
/// Odd lengths: within the header, across its end, single bytes, across a page, unaligned from
/// there on.
const CUTS: [usize; 9] = [7, 12, 1, 511, 1, 4097, 3, 1500, 2];

/// A disk in operation.
pub(super) struct Disk {
    pub(super) slot: Slot,
    pub(super) block: Block<Registers>,
    /// Memory for header, scratch area and status.
    memory: Region,
    /// The original content of the scratch area.
    saved: Region,
}

impl Disk {
    /// Initialises the first disk that is, or is not, read-only.
    pub(super) fn open(rig: &mut Rig<'_>, read_only: bool) -> Option<Result<Self, Failure>> {
        for (slot, mut transport) in devices(rig.board, device::BLOCK) {
            let is_read_only = transport.offered() & block::features::RO != 0;
            if is_read_only == read_only {
                return Some(transport.reset().map_err(Failure::from).and_then(|()| {
                    irq::watch(slot);
                    let dma = &mut rig.dma;
                    let len = usize::try_from(SCRATCH).unwrap_or(0) * SECTOR;
                    let block = Block::new(transport, dma, block::WANTED, QUEUE_SIZE)?;
                    let (memory, saved) = (dma.alloc(len + AROUND)?, dma.alloc(len)?);
                    Ok(Self { slot, block, memory, saved })
                }));
            }
        }
        None
    }

    /// Sectors of the scratch area at the end of the disk, at most `wanted`.
    pub(super) fn scratch(&self, wanted: u64) -> (u64, usize) {
        let sectors = wanted.min(SCRATCH).min(self.block.capacity());
        let bytes = usize::try_from(sectors).unwrap_or(0) * SECTOR;
        (self.block.capacity() - sectors, bytes)
    }

    /// Saves the last sectors, runs `test`, which may change them, and restores them in any case.
    pub(super) fn restoring(
        &mut self,
        test: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (first, bytes) = self.scratch(SCRATCH);
        let saved = self.saved.slice(0..bytes);
        self.succeed(Request::read(first), Segment::writable(&saved))?;
        let verdict = test(self);
        self.succeed(Request::write(first), Segment::readable(&saved))?;
        verdict
    }

    /// Writes a pattern over `bytes` from `first` on, in odd segments, and reads it back in odd
    /// segments.
    pub(super) fn framed(
        &mut self,
        (first, bytes): (u64, usize),
        seed: u8,
        layout: Layout,
    ) -> Result<(), Failure> {
        let memory = self.memory.slice(0..bytes + AROUND);
        let data = memory.slice(HEADER..HEADER + bytes);
        let mut cuts = CUTS;
        let cuts = fit(&mut cuts, memory.len());
        pattern(&data, seed);
        let readable = HEADER + bytes;
        let frame = Frame { memory: &memory, readable, cuts, layout };
        self.framed_request(Request::write(first), &frame, 1)?;
        data.fill(!seed);
        let frame = Frame { memory: &memory, readable: HEADER, cuts, layout };
        self.framed_request(Request::read(first), &frame, bytes + 1)?;
        verify(&data, seed)
    }

    fn framed_request(
        &mut self,
        request: Request,
        frame: &Frame<'_>,
        written: usize,
    ) -> Result<(), Failure> {
        let token = self.block.submit_framed(request, frame)?;
        let done = self.block.finish(token, &mut deadline())?;
        expect(request, done, Status::Ok)?;
        ensure!(
            done.written as usize == written,
            "type {}: {} bytes written, not {written}",
            request.kind,
            done.written
        );
        Ok(())
    }

    /// One request that must succeed.
    pub(super) fn succeed(&mut self, request: Request, data: Segment) -> Result<(), Failure> {
        let done = self.block.request(request, &[data], &mut deadline())?;
        expect(request, done, Status::Ok)
    }

    /// The memory for data, `bytes` of it.
    pub(super) fn data(&self, bytes: usize) -> Region {
        self.memory.slice(0..bytes)
    }
}

/// Compares the result of a request with the expected one.
pub(super) fn expect(request: Request, done: Done, status: Status) -> Result<(), Failure> {
    let Request { kind, sector } = request;
    ensure!(
        done.status == status,
        "type {kind}, sector {sector}: {:?} instead of {status:?}",
        done.status
    );
    Ok(())
}

/// Fills a region with bytes that encode their position and the seed.
pub(super) fn pattern(region: &Region, seed: u8) {
    for offset in 0..region.len() {
        region.write(offset, &[byte(offset, seed)]);
    }
}

/// Compares a region with the pattern.
pub(super) fn verify(region: &Region, seed: u8) -> Result<(), Failure> {
    for offset in 0..region.len() {
        let mut found = [0];
        region.read(offset, &mut found);
        let [found] = found;
        let wanted = byte(offset, seed);
        ensure!(
            found == wanted,
            "byte {offset} reads {found:#04x}, not {wanted:#04x}"
        );
    }
    Ok(())
}

/// Different for neighbours, for sectors and for seeds.
pub(super) fn byte(offset: usize, seed: u8) -> u8 {
    let [low, high, ..] = offset.to_le_bytes();
    low.wrapping_mul(7) ^ high.wrapping_mul(29) ^ seed
}

/// As many of the cuts as fit into `len` bytes, with the last one adjusted to add up.
fn fit(cuts: &mut [usize; CUTS.len()], len: usize) -> &[usize] {
    let mut left = len;
    let mut count = 0;
    for cut in cuts.iter_mut() {
        *cut = left.min(*cut);
        left -= *cut;
        count += usize::from(*cut > 0);
    }
    if let Some(last) = cuts.last_mut() {
        *last += left;
    }
    cuts.get(..count).unwrap_or_default()
}
