//! qcow2 images, damaged before they are opened. A request then has an answer within a time, the
//! header stays as it was, and a panic of the library ends the image alone. An image without damage
//! holds what was written to it.
//!
//! The images are our own ([`image`](crate::qcow2_image)), and qemu-img's if that is installed.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock, Mutex};

use arbitrary::Arbitrary;
use devices::block::{Block, Image, Layer, Options};
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};

use crate::driver::few;
use crate::file::new_file;
use crate::model::Rings;
use crate::qcow2_image::{Shape, made_by_qemu};
use crate::queue::{Nowhere, activate};
use crate::ram::{BASE, Ram};

/// FLUSH, DISCARD, WRITE_ZEROES.
const FEATURES: u64 = 1 << 9 | 1 << 13 | 1 << 14;
const SECTOR: usize = 512;
const SECTORS_MAX: u64 = 64;

const RINGS: Rings = Rings { size: 16, table: BASE, driver: BASE + 0x1000, device: BASE + 0x2000 };
const HEADER: u64 = BASE + 0x3000;
const STATUS: u64 = BASE + 0x3010;
const DATA: u64 = BASE + 0x8000;

/// An image, its damage, and what a guest does with it.
#[derive(Debug, Arbitrary)]
pub struct Case {
    source: Source,
    #[arbitrary(with = few)]
    damage: Vec<Damage>,
    readonly: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Source {
    Own(Shape),
    Qemu(u8),
}

#[derive(Debug, Arbitrary)]
enum Damage {
    /// A field of the header.
    Header(u8, Value),
    /// An entry of a table that the header names: L1, or refcounts.
    Table(bool, u8, Value),
    /// The same, of a table that such an entry names: L2, or a refcount block.
    Below(bool, u8, u16, Value),
    Anywhere(u32, [u8; 8]),
    Truncated(u32),
    /// Sparse, so larger than memory.
    Longer(u64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Value {
    Any(u64),
    Small(u8),
    Ones,
    /// The offset of a cluster, with flags: copied, compressed, zero.
    Cluster(u8, [bool; 3]),
    Far(u8, [bool; 3]),
}

#[derive(Debug, Arbitrary)]
struct Step {
    kind: Kind,
    sector: u16,
    sectors: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    Zero,
    Unmap,
    /// As after a reboot.
    Reopen,
}

/// Fields of the header: offset and bytes.
const FIELDS: [(u64, usize); 18] = [
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 8),
];

impl Value {
    fn number(self, cluster: u64) -> u64 {
        let flags = |[copied, compressed, zero]: [bool; 3]| {
            u64::from(copied) << 63 | u64::from(compressed) << 62 | u64::from(zero)
        };
        match self {
            Value::Any(number) => number,
            Value::Small(number) => number.into(),
            Value::Ones => u64::MAX,
            // Mostly within the file.
            Value::Cluster(number, set) => (u64::from(number % 32) * cluster) | flags(set),
            Value::Far(bit, set) => (1_u64 << (bit % 56)) & !(cluster - 1) | flags(set),
        }
    }
}

/// Does what takes long, or changes libFuzzer, before the first case is timed.
pub fn prepare() {
    made_by_qemu(0);
    report_contained_panics();
}

/// Runs a case.
pub fn run(case: &Case) {
    let (bytes, backing) = match &case.source {
        Source::Own(shape) => shape.image(),
        Source::Qemu(number) => (made_by_qemu(*number), false),
    };
    let file = new_file(&bytes);
    let cluster = 1 << (be32(&file, 20) % 22);
    for damage in &case.damage {
        apply(&file, damage, cluster);
    }
    let intact = case.damage.is_empty();
    let Some(mut disk) = Disk::open(&file, backing, case.readonly) else {
        assert!(!intact, "an intact image is refused");
        return;
    };
    let header = start(&file);
    let mut model = intact.then(|| disk.all());
    for step in &case.steps {
        if step.kind == Kind::Reopen {
            disk.request(4, 0, &[], 0);
            drop(disk);
            let Some(again) = Disk::open(&file, backing, case.readonly) else {
                assert!(!intact, "an intact image is damaged");
                return;
            };
            disk = again;
        } else {
            disk.step(step, case.readonly, model.as_mut());
        }
    }
    if let Some(model) = model {
        assert!(disk.all() == model, "an intact image lost data");
    }
    drop(disk);
    assert_eq!(start(&file), header, "the header was overwritten");
}

/// The first bytes of the header, without those that imago may change: the position of the backing
/// file's name.
fn start(file: &File) -> [u8; 36] {
    let mut bytes = [0; 36];
    file.read_exact_at(&mut bytes, 0).expect("a header");
    bytes[8..20].fill(0);
    bytes
}

fn apply(file: &File, damage: &Damage, cluster: u64) {
    let write = |bytes: &[u8], at: u64| {
        // Past the end of all files, there is nothing to damage.
        let _ = file.write_all_at(bytes, at);
    };
    let table = |refcounts| be64(file, if refcounts { 48 } else { 40 });
    match *damage {
        Damage::Header(field, value) => {
            let (at, len) = FIELDS[usize::from(field) % FIELDS.len()];
            let value = value.number(cluster).to_be_bytes();
            write(&value[8 - len..], at);
        }
        Damage::Table(refcounts, index, value) => {
            let at = table(refcounts).saturating_add(u64::from(index % 8) * 8);
            write(&value.number(cluster).to_be_bytes(), near(at));
        }
        Damage::Below(refcounts, index, entry, value) => {
            let at = table(refcounts).saturating_add(u64::from(index % 4) * 8);
            let below = be64(file, near(at)) & 0x00ff_ffff_ffff_fe00;
            let at = below + u64::from(entry) * 8 % cluster;
            write(&value.number(cluster).to_be_bytes(), near(at));
        }
        Damage::Anywhere(at, bytes) => {
            let len = file.metadata().expect("a file").len().max(1);
            write(&bytes, u64::from(at) % len);
        }
        Damage::Truncated(len) => {
            let old = file.metadata().expect("a file").len().max(1);
            file.set_len(u64::from(len) % old).expect("memory");
        }
        Damage::Longer(len) => {
            let old = file.metadata().expect("a file").len();
            let _ = file.set_len(old.saturating_add(len >> 4));
        }
    }
}

/// Damage is within the first MiB: what is farther away takes memory.
fn near(at: u64) -> u64 {
    at % (1 << 20)
}

fn be64(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    // Past the end there are zeroes.
    let _ = file.read_at(&mut bytes, at);
    u64::from_be_bytes(bytes)
}

fn be32(file: &File, at: u64) -> u32 {
    (be64(file, at) >> 32) as u32
}

/// The device, and a driver with one request at a time.
struct Disk {
    block: Block,
    queues: Queues,
    ram: Ram,
    done: u16,
    sectors: u64,
}

impl Disk {
    fn open(file: &File, backing: bool, readonly: bool) -> Option<Disk> {
        let copy = || file.try_clone().expect("a descriptor");
        let layer = || Layer { file: new_file(&[0xb5; 5000]), qcow2: false };
        let layers = if backing { vec![layer()] } else { vec![] };
        let _ = Image::backing(&copy());
        let image = Image::qcow2(copy(), readonly, layers).ok()?;
        let size = image.size().ok()?;
        let options = Options { readonly, reported: Arc::new(true.into()), ..Options::default() };
        let mut block = Block::of(image, size, &options);
        let ram = Ram::new();
        let interrupt = Arc::new(Interrupt::new(Box::new(Nowhere)));
        let queue = activate(&ram, RINGS, RINGS.size, FEATURES, &interrupt);
        block.activate(FEATURES & block.features(), &ram.memory());
        let queues = Queues::new(vec![queue]);
        Some(Disk { block, queues, ram, done: 0, sectors: size / 512 })
    }

    /// Returns the status, and what was read.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.ram.write(HEADER, &header);
        self.ram.write(STATUS, &[0xff]);
        self.ram.write(DATA, data);
        let len = data.len().max(room) as u32;
        let mut parts = vec![(HEADER, 16, 0), (STATUS, 1, 2)];
        if len > 0 {
            parts.insert(1, (DATA, len, if room > 0 { 2 } else { 0 }));
        }
        let last = parts.len() - 1;
        for (index, (at, len, flags)) in parts.into_iter().enumerate() {
            let more = u16::from(index < last);
            let mut descriptor = at.to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend((flags | more).to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            self.ram.write(RINGS.table + index as u64 * 16, &descriptor);
        }
        let slot = u64::from(self.done % RINGS.size);
        self.ram.write(RINGS.driver + 4 + slot * 2, &[0, 0]);
        self.done = self.done.wrapping_add(1);
        self.ram.write(RINGS.driver + 2, &self.done.to_le_bytes());
        let served = self.block.process_queue(0, &mut self.queues);
        served.expect("a valid request");
        let used = self.ram.found(RINGS.device + 2, 2);
        assert_eq!(used, self.done.to_le_bytes(), "a request without an answer");
        (self.ram.found(STATUS, 1)[0], self.ram.found(DATA, room))
    }

    fn step(&mut self, step: &Step, readonly: bool, model: Option<&mut Vec<u8>>) {
        let sectors = u64::from(step.sectors).min(SECTORS_MAX).min(self.sectors);
        let sector = match self.sectors - sectors {
            0 => 0,
            last => u64::from(step.sector) % (last + 1),
        };
        let segment = |flags: u32| {
            let segment = u128::from(sector) | u128::from(sectors) << 64 | u128::from(flags) << 96;
            segment.to_le_bytes().to_vec()
        };
        let len = sectors as usize * SECTOR;
        let value = step.sector as u8 | 1;
        let (status, data) = match step.kind {
            Kind::Read => self.request(0, sector, &[], len),
            Kind::Write => self.request(1, sector, &vec![value; len], 0),
            Kind::Discard => self.request(11, 0, &segment(0), 0),
            Kind::Zero => self.request(13, 0, &segment(0), 0),
            Kind::Unmap => self.request(13, 0, &segment(1), 0),
            Kind::Flush | Kind::Reopen => self.request(4, 0, &[], 0),
        };
        let Some(model) = model else { return };
        let changes = !matches!(step.kind, Kind::Read | Kind::Flush | Kind::Reopen);
        if changes && readonly {
            return assert_ne!(status, 0);
        }
        assert_eq!(status, 0, "an intact image fails: {step:?}");
        let at = sector as usize * SECTOR;
        match step.kind {
            Kind::Read => assert!(model[at..at + len] == data, "an intact image lost data"),
            Kind::Write => model[at..at + len].fill(value),
            Kind::Zero | Kind::Unmap => model[at..at + len].fill(0),
            // The content is undefined.
            Kind::Discard => {
                let (_, found) = self.request(0, sector, &[], len);
                model[at..at + len].copy_from_slice(&found);
            }
            Kind::Flush | Kind::Reopen => {}
        }
    }

    /// The content of an intact image.
    fn all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        for sector in (0..self.sectors).step_by(SECTORS_MAX as usize) {
            let sectors = (self.sectors - sector).min(SECTORS_MAX);
            let (status, data) = self.request(0, sector, &[], sectors as usize * SECTOR);
            assert_eq!(status, 0);
            all.extend(data);
        }
        all
    }
}

/// Each place that panics in a contained thread is reported once. libFuzzer's hook ends the
/// process, so it must not see such a panic.
fn report_contained_panics() {
    static SEEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let contained = std::thread::current().name() == Some(devices::CONTAINED);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if contained && SEEN.lock().is_ok_and(|mut seen| seen.insert(place)) {
            eprintln!("contained: {}", info.to_string().replace('\n', " "));
        }
        if !devices::report_if_contained(info) {
            before(info);
        }
    }));
}
