//! Compares the block device with a disk that is an array, and with the queue's
//! [`model`](crate::model): after each kick guest memory and disk must equal theirs, byte for byte.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::block::{Block, Config, Options};
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};

use crate::driver::{Driver, Shape, cut, few, seldom};
use crate::file::new_file;
use crate::model::{Chain, Model, QueueError};
use crate::queue::{Nowhere, SetUp};
use crate::ram::{BASE, Ram};

const SECTOR: u64 = 512;
/// Sectors of a new disk.
const CAPACITY: u64 = 64;
const QUEUES: usize = 2;
const SIZE: u16 = 256;

/// § 5.2.3.
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// The steps of a guest with a disk.
#[derive(Debug, Arbitrary)]
pub struct Case {
    readonly: bool,
    write_through: bool,
    set_up: SetUp,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Request {
        queue: bool,
        kind: Kind,
        sector: Sector,
        sectors: u8,
        #[arbitrary(with = seldom)]
        odd: Option<i8>,
        #[arbitrary(with = few)]
        cuts: Vec<u16>,
        shape: Shape,
    },
    Wish(bool, u16, u16),
    Write(u32, [u8; 4]),
    Kick(bool),
    Configure(u8, [u8; 8], u8),
    /// The host makes the disk larger or smaller.
    Resize(u8),
    Reset(SetUp),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    In,
    Out,
    Flush,
    GetId,
    Discard(Segments),
    WriteZeroes(Segments),
    Any(u32),
}

/// The range of a DISCARD or WRITE_ZEROES.
#[derive(Debug, Arbitrary)]
struct Segments {
    #[arbitrary(with = few)]
    more: Vec<(Sector, u32)>,
    sectors: u8,
    #[arbitrary(with = seldom)]
    flags: Option<u32>,
    unmap: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Sector {
    Inside(u8),
    AtTheEnd(i8),
    Overflowing(u8),
    Any(u64),
}

impl Sector {
    fn number(self) -> u64 {
        match self {
            Sector::Inside(at) => u64::from(at) % CAPACITY,
            Sector::AtTheEnd(by) => CAPACITY.wrapping_add_signed(by.into()),
            Sector::Overflowing(by) => (u64::MAX / SECTOR).wrapping_add(by.into()),
            Sector::Any(sector) => sector,
        }
    }
}

/// Runs a case. Panics when device and model disagree.
pub fn run(case: &Case) {
    let mut pair = Pair::new(case);
    pair.set_up(&case.set_up);
    for step in &case.steps {
        pair.step(step);
    }
    // After a reset the device is a working disk, whatever happened before.
    pair.step(&Step::Resize(CAPACITY as u8));
    pair.set_up(&SetUp::default());
    for kind in [Kind::Out, Kind::In] {
        pair.request(0, &kind, 0, 1, 0, &[], &Shape::default());
        pair.kick(0);
        let last = pair.last.take();
        assert_eq!(last, Some(u8::from(pair.readonly && kind.writes())));
    }
}

impl Kind {
    fn writes(&self) -> bool {
        matches!(self, Kind::Out)
    }
}

/// Device and model.
struct Pair {
    ram: Ram,
    file: File,
    disk: Vec<u8>,
    readonly: bool,
    features: u64,
    block: Block,
    config: Arc<Config>,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    /// `None` once it is broken.
    models: [Option<Model>; QUEUES],
    drivers: Vec<Driver>,
    /// The status of the last request.
    last: Option<u8>,
}

impl Pair {
    fn new(case: &Case) -> Pair {
        let disk: Vec<u8> = (0..CAPACITY * SECTOR)
            .map(|at| (at / SECTOR + 1) as u8)
            .collect();
        let file = new_file(&disk);
        let options = Options {
            readonly: case.readonly,
            serial: "0123456789abcdefghij",
            write_through: case.write_through,
            queues: QUEUES as u16,
            block_size: 512,
            name: "fuzzed",
            reported: Arc::default(),
        };
        let copy = file.try_clone().expect("a descriptor");
        let block = Block::with(copy, disk.len() as u64, &options);
        Pair {
            ram: Ram::new(),
            file,
            disk,
            readonly: case.readonly,
            features: 0,
            config: block.shared_config(),
            block,
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            models: [None, None],
            drivers: Vec::new(),
            last: None,
        }
    }

    /// A reset, then the set-up of a driver, which must always succeed.
    fn set_up(&mut self, set_up: &SetUp) {
        self.queues = Queues::new(Vec::new());
        self.block.reset();
        self.interrupt.reset();
        let offered = self.block.features();
        let started = set_up.start(&mut self.ram, offered, SIZE, &self.interrupt);
        self.features = started.features;
        (self.queues, self.models) = (started.queues, started.models);
        self.drivers = started.drivers;
        self.block.activate(self.features, &self.ram.memory());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Request { queue, kind, sector, sectors, odd, cuts, shape } => {
                let odd = odd.unwrap_or(0).into();
                let queue = usize::from(*queue);
                self.request(queue, kind, sector.number(), *sectors, odd, cuts, shape);
            }
            Step::Wish(queue, flags, event) => {
                self.drivers[usize::from(*queue)].wish(&mut self.ram, *flags, *event);
            }
            Step::Write(offset, bytes) => {
                self.ram.write(BASE + u64::from(*offset % 0x8000), bytes);
            }
            Step::Kick(queue) => self.kick((*queue).into()),
            Step::Configure(offset, bytes, len) => {
                let (offset, len) = (usize::from(*offset), usize::from(len % 9));
                let (config, mut read) = (self.block.config(), [0; 8]);
                config.write(offset, &bytes[..len]);
                config.read(offset, &mut read[..len]);
            }
            Step::Resize(sectors) => {
                let size = u64::from(*sectors) * SECTOR;
                self.file.set_len(size).expect("memory");
                self.disk.resize(size as usize, 0);
                self.config.resize(size);
            }
            Step::Reset(set_up) => self.set_up(set_up),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    fn request(
        &mut self,
        queue: usize,
        kind: &Kind,
        sector: u64,
        sectors: u8,
        odd: i64,
        cuts: &[u16],
        shape: &Shape,
    ) {
        let len = u64::from(sectors % 8) * SECTOR;
        let len = len.saturating_add_signed(odd) as usize;
        let (number, mut data, room) = match kind {
            Kind::In => (0, Vec::new(), len),
            Kind::Out => (1, (0..len).map(|at| at as u8).collect(), 0),
            Kind::Flush => (4, Vec::new(), 0),
            Kind::GetId => (8, Vec::new(), 20_usize.saturating_add_signed(odd as isize)),
            Kind::Discard(segments) => (11, segments.bytes(sector), 0),
            Kind::WriteZeroes(segments) => (13, segments.bytes(sector), 0),
            Kind::Any(number) => (*number, vec![7; len], len),
        };
        let mut readable = u32::to_le_bytes(number).to_vec();
        readable.extend([0; 4]);
        readable.extend(sector.to_le_bytes());
        readable.append(&mut data);
        let readable = cut(&readable, cuts);
        let status_and_room = vec![(); room + 1];
        let writable = cut(&status_and_room, cuts);
        let writable: Vec<u32> = writable.iter().map(|piece| piece.len() as u32).collect();
        self.drivers[queue].offer(&mut self.ram, &readable, &writable, shape);
    }

    /// Lets the device serve its queues, then the model.
    fn kick(&mut self, index: usize) {
        let Some(model) = &mut self.models[index] else {
            return;
        };
        let kicked = self.block.process_queue(index, &mut self.queues);
        let mut disk = Disk {
            bytes: &mut self.disk,
            readonly: self.readonly,
            features: self.features,
            last: &mut self.last,
        };
        let drained = model.drain(&mut self.ram, |ram, chain| Some(disk.serve(ram, chain)));
        assert_eq!(kicked.is_err(), drained == Err(QueueError), "{kicked:?}");
        let queue = self.queues.get(index).expect("it is active");
        assert_eq!(queue.is_unfinished(), model.unfinished);
        let wanted = std::mem::take(&mut model.interrupts) > 0;
        assert_eq!(self.interrupt.status(), u32::from(wanted));
        self.interrupt.acknowledge(u32::MAX);
        if kicked.is_err() {
            self.models[index] = None;
        }
        self.ram.check();
        let mut found = vec![0; self.disk.len()];
        self.file.read_exact_at(&mut found, 0).expect("memory");
        assert!(found == self.disk, "the disk has unexpected content");
    }
}

impl Segments {
    fn bytes(&self, sector: u64) -> Vec<u8> {
        let flags = self.flags.unwrap_or(u32::from(self.unmap));
        let first = [(sector, u32::from(self.sectors % 8))];
        let more = self
            .more
            .iter()
            .map(|(sector, len)| (sector.number(), *len));
        let all = first.into_iter().chain(more).flat_map(|(sector, sectors)| {
            let segment = u128::from(sector) | u128::from(sectors) << 64 | u128::from(flags) << 96;
            segment.to_le_bytes()
        });
        all.collect()
    }
}

/// A disk that is an array, which serves requests as in § 5.2.6.
struct Disk<'a> {
    bytes: &'a mut Vec<u8>,
    readonly: bool,
    features: u64,
    last: &'a mut Option<u8>,
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

impl Disk<'_> {
    fn serve(&mut self, ram: &mut Ram, chain: &mut Chain) -> u32 {
        if !chain.writable.split_last() {
            return 0;
        }
        let (status, written) = match self.execute(ram, chain) {
            Ok(written) => (OK, written),
            Err(status) => (status, 0),
        };
        if let Some(last) = chain.writable.last() {
            ram.put(last, &[status]);
        }
        *self.last = Some(status);
        written as u32 + 1
    }

    fn execute(&mut self, ram: &mut Ram, chain: &mut Chain) -> Result<u64, u8> {
        if chain.readable.len() < 16 {
            return Err(IOERR);
        }
        let header = chain.readable.read(ram, 16);
        let kind = u32::from_le_bytes(header[..4].try_into().expect("4"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("8"));
        match kind {
            0 => {
                let len = chain.writable.len();
                let range = self.range(sector, len)?;
                chain.writable.write(ram, &self.bytes[range]);
                Ok(len)
            }
            1 => {
                self.may_write()?;
                let len = chain.readable.len();
                let range = self.range(sector, len)?;
                let data = chain.readable.read(ram, len);
                self.bytes[range].copy_from_slice(&data);
                Ok(0)
            }
            4 => Ok(0),
            8 => Ok(chain.writable.write(ram, b"0123456789abcdefghij") as u64),
            11 if self.features & DISCARD != 0 => self.zero(ram, chain, (16, 1 << 21), 0),
            13 if self.features & WRITE_ZEROES != 0 => self.zero(ram, chain, (1, 1 << 16), 1),
            _ => Err(UNSUPP),
        }
    }

    /// Discarded parts of a file in memory read as zeroes too.
    fn zero(
        &mut self,
        ram: &Ram,
        chain: &mut Chain,
        (segments, sectors): (u64, u32),
        known: u32,
    ) -> Result<u64, u8> {
        self.may_write()?;
        let len = chain.readable.len();
        if len == 0 || !len.is_multiple_of(16) || len / 16 > segments {
            return Err(IOERR);
        }
        let mut ranges = Vec::new();
        for segment in chain.readable.read(ram, len).chunks_exact(16) {
            let sector = u64::from_le_bytes(segment[..8].try_into().expect("8"));
            let count = u32::from_le_bytes(segment[8..12].try_into().expect("4"));
            let flags = u32::from_le_bytes(segment[12..].try_into().expect("4"));
            if flags & !known != 0 {
                return Err(UNSUPP);
            }
            if count > sectors {
                return Err(IOERR);
            }
            ranges.push(self.range(sector, u64::from(count) * SECTOR)?);
        }
        for range in ranges {
            self.bytes[range].fill(0);
        }
        Ok(0)
    }

    fn may_write(&self) -> Result<(), u8> {
        if self.readonly { Err(IOERR) } else { Ok(()) }
    }

    fn range(&self, sector: u64, len: u64) -> Result<std::ops::Range<usize>, u8> {
        let start = sector.checked_mul(SECTOR).ok_or(IOERR)?;
        let end = start.checked_add(len).ok_or(IOERR)?;
        if !len.is_multiple_of(SECTOR) || end > self.bytes.len() as u64 {
            return Err(IOERR);
        }
        Ok(start as usize..end as usize)
    }
}
