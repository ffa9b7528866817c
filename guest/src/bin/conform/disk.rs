//! The disk under test: hand-written requests, and the field, the part of the disk whose content is
//! known.
//!
//! ```text
//!   sector   0 ───────────── field, at most 1 MiB ──────── │ ─── left alone ─── last sector
//!            each 8 bytes: number of the sector, of the word          by tests of the edge only
//! ```

use core::ops::Range;

use guest::bare::Descriptor;
use guest::block::{Request, SECTOR};
use guest::tap::Failure;
use guest::{Region, ensure};

use crate::device::{BLANK, DATA, Device, Kind, STATUS, UNIT};

/// Request status (§5.2.6).
pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;

/// Sectors of the field, on a disk that has as many.
const FIELD: u64 = 2048;
/// Sectors at its front that are read after each test. The others are read after all tests.
const WATCHED: u64 = 256;
/// Sectors per request when the field is painted or read.
const BATCH: u64 = 128;
/// Offset of header, status and data of the field's requests, after the buffers of plain requests.
const HEAD: usize = 0x8000;
const AREA: usize = 0x9000;

/// Compares a request's status with the expected one.
pub(crate) fn expect(found: u8, wanted: u8) -> Result<(), Failure> {
    ensure!(
        found == wanted,
        "status {} instead of {}",
        name(found),
        name(wanted)
    );
    Ok(())
}

/// The name of a status byte.
pub(crate) fn name(status: u8) -> &'static str {
    match status {
        OK => "OK",
        IOERR => "IOERR",
        UNSUPP => "UNSUPP",
        BLANK => "not written",
        _ => "of no meaning",
    }
}

/// The content of a sector of the field.
fn paint(sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for (word, place) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
        *place = (sector << 32 | word << 16 | 0xc0f0).to_le_bytes();
    }
    bytes
}

impl Device {
    /// Capacity in sectors (§5.2.4).
    pub(crate) fn capacity(&self) -> u64 {
        self.transport.config_u64(0).unwrap_or(0)
    }

    fn field(&self) -> u64 {
        self.capacity().min(FIELD)
    }

    /// Whether the disk may be overwritten: the only one, or the one named conform.
    pub(crate) fn is_for_us(&mut self, only: bool) -> bool {
        only || self.serial().is_ok_and(|serial| &serial == b"conform")
    }

    fn serial(&mut self) -> Result<[u8; 7], Failure> {
        self.live(0)?;
        let status = self.request(
            Request::GET_ID,
            0,
            &[Descriptor::writable(self.at(DATA), 20)],
        )?;
        expect(status.0, OK)?;
        let mut serial = [0; 7];
        self.memory.read(DATA, &mut serial);
        ensure!(self.byte(DATA + 7) == 0, "a longer serial number");
        Ok(serial)
    }

    /// Writes a header to unit `unit`.
    pub(crate) fn header(&self, unit: u16, kind: u32, sector: u64) {
        let start = UNIT * usize::from(unit);
        self.header_at(start, kind, sector);
    }

    /// Writes a header anywhere, and resets the status byte of the request.
    pub(crate) fn header_at(&self, start: usize, kind: u32, sector: u64) {
        self.memory.write(start, &kind.to_le_bytes());
        self.memory.write(start + 4, &[0; 4]);
        self.memory.write(start + 8, &sector.to_le_bytes());
    }

    /// The buffers of a read of sector `unit` by unit `unit`, `len` bytes of it.
    pub(crate) fn read_request(&self, unit: u16, len: u32) -> [Descriptor; 3] {
        let start = UNIT * usize::from(unit);
        self.header(unit, Request::IN, unit.into());
        self.memory.write(start + STATUS, &[BLANK]);
        [
            Descriptor::readable(self.at(start), 16),
            Descriptor::writable(self.at(start + DATA), len),
            Descriptor::writable(self.at(start + STATUS), 1),
        ]
    }

    /// The status byte of unit `unit`.
    pub(crate) fn status_of(&self, unit: u16) -> u8 {
        self.byte(UNIT * usize::from(unit) + STATUS)
    }

    /// The data of unit `unit` must be sector `unit` of the field.
    pub(crate) fn check_sector(&self, unit: u16) -> Result<(), Failure> {
        let start = UNIT * usize::from(unit) + DATA;
        verify(&self.memory.slice(start..start + SECTOR), unit.into())
    }

    /// One request with header and status of unit 0 and these buffers between them. Returns its
    /// status and `len`.
    pub(crate) fn request(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[Descriptor],
    ) -> Result<(u8, u32), Failure> {
        self.submit(kind, sector, data);
        let (_, written) = self.answer()?;
        Ok((self.status_of(0), written))
    }

    /// As [`request`](Self::request), and does not wait.
    pub(crate) fn submit(&self, kind: u32, sector: u64, data: &[Descriptor]) {
        self.header(0, kind, sector);
        self.memory.write(STATUS, &[BLANK]);
        self.submit_by(0, data);
    }

    /// A request whose header and status are at `start`, in the first descriptors of the table.
    fn submit_by(&self, start: usize, data: &[Descriptor]) {
        let table = self.ring().descriptors();
        let header = [Descriptor::readable(self.at(start), 16)];
        let status = [Descriptor::writable(self.at(start + STATUS), 1)];
        let count = data.len() + 2;
        for (at, descriptor) in (0_u16..).zip(header.iter().chain(data).chain(&status)) {
            let last = usize::from(at) + 1 == count;
            let descriptor = if last {
                *descriptor
            } else {
                descriptor.then(at + 1)
            };
            guest::bare::describe(table, at, descriptor);
        }
        self.offer(&[0]);
    }

    /// Reads or writes sectors of the field through the area.
    fn batch(&mut self, kind: u32, sectors: &Range<u64>) -> Result<Region, Failure> {
        let len = bytes(sectors.end - sectors.start);
        let data = Descriptor::readable(self.at(AREA), u32::try_from(len).unwrap_or(0));
        let data = match kind {
            Request::IN => data.with(guest::bare::WRITE),
            _ => data,
        };
        self.header_at(HEAD, kind, sectors.start);
        self.memory.write(HEAD + STATUS, &[BLANK]);
        self.submit_by(HEAD, &[data]);
        self.answer()?;
        expect(self.byte(HEAD + STATUS), OK)?;
        Ok(self.memory.slice(AREA..AREA + len))
    }

    /// Paints the whole field.
    pub(crate) fn paint(&mut self) -> Result<(), Failure> {
        if self.kind != Kind::Disk {
            return Ok(());
        }
        self.live(0)?;
        self.repaint(0..self.field())
    }

    fn repaint(&mut self, sectors: Range<u64>) -> Result<(), Failure> {
        for batch in batches(sectors) {
            for (place, sector) in batch.clone().enumerate() {
                self.memory.write(AREA + SECTOR * place, &paint(sector));
            }
            self.batch(Request::OUT, &batch)?;
        }
        Ok(())
    }

    /// Compares the front of the field with the pattern, except the sectors that the test touched.
    /// Wrong or touched sectors are painted again.
    pub(crate) fn check_front(&mut self) -> Result<(), Failure> {
        self.check_sectors(WATCHED.min(self.field()))
    }

    /// The same for the whole field.
    pub(crate) fn check_field(&mut self) -> Result<(), Failure> {
        self.check_sectors(self.field())
    }

    fn check_sectors(&mut self, sectors: u64) -> Result<(), Failure> {
        if self.kind != Kind::Disk {
            return Ok(());
        }
        let touched = core::mem::replace(&mut self.touched, 0..0);
        let mut sound = Ok(());
        for batch in batches(0..sectors) {
            let read = self.batch(Request::IN, &batch)?;
            for (place, sector) in batch.clone().enumerate() {
                let at = SECTOR * place;
                if !touched.contains(&sector) {
                    sound = sound.and(verify(&read.slice(at..at + SECTOR), sector));
                }
            }
        }
        let field = self.field();
        match sound {
            Ok(()) => self.repaint(touched.start.min(field)..touched.end.min(field))?,
            Err(_) => self.repaint(0..field)?,
        }
        sound
    }

    /// The test may write these sectors.
    pub(crate) fn touch(&mut self, sectors: Range<u64>) {
        self.touched = sectors;
    }
}

/// Sectors in portions that fit into the area.
fn batches(sectors: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let step = usize::try_from(BATCH).unwrap_or(1);
    let end = sectors.end;
    sectors
        .step_by(step)
        .map(move |first| first..end.min(first + BATCH))
}

fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors).unwrap_or(0) * SECTOR
}

/// Compares memory with the pattern of a sector.
pub(crate) fn verify(memory: &Region, sector: u64) -> Result<(), Failure> {
    let mut found = [0; SECTOR];
    memory.read(0, &mut found);
    ensure!(
        found == paint(sector),
        "sector {sector} reads as something else"
    );
    Ok(())
}
