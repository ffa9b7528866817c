//! A guest's use of a queue: chains as drivers lay them out, and each case of the list of hostile
//! guests (docs/testing.md) as a step of its own, so that finding it takes no luck.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::model::Rings;
use crate::ram::{BASE, ISLAND, ISLAND_LEN, LEN, Ram};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes for the rings of each queue: room for 256 descriptors.
const RINGS: u64 = 0x4000;
/// Indirect tables begin here, followed by buffers.
const TABLES: u64 = BASE + 0x8000;
const BUFFERS: u64 = BASE + 0xc000;

/// `None` in seven of eight cases: few cases should begin with a fault that ends the use of the
/// queue.
pub fn seldom<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Result<Option<T>> {
    Ok(if u.ratio(1, 8)? {
        Some(u.arbitrary()?)
    } else {
        None
    })
}

/// A short list.
pub fn few<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=8)?;
    (0..count).map(|_| u.arbitrary()).collect()
}

/// Splits into pieces, at these places modulo the length.
pub fn cut<'a, T>(whole: &'a [T], at: &[u16]) -> Vec<&'a [T]> {
    let places = at.iter().map(|at| usize::from(*at) % whole.len().max(1));
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    let starts = std::iter::once(0).chain(places.iter().copied());
    let ends = places.iter().copied().chain([whole.len()]);
    starts
        .zip(ends)
        .map(|(start, end)| &whole[start..end])
        .collect()
}

/// Addresses of a queue's rings, and its size.
#[derive(Debug, Clone)]
pub struct Layout {
    /// A power of two.
    size: u8,
    odd: Option<Odd>,
}

/// The layout of a correct driver.
impl Default for Layout {
    fn default() -> Self {
        Layout { size: 6, odd: None }
    }
}

impl<'a> Arbitrary<'a> for Layout {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Layout { size: u.int_in_range(0..=8)?, odd: seldom(u)? })
    }
}

/// A layout that no driver chooses.
#[derive(Debug, Clone, Arbitrary)]
enum Odd {
    Size(u16),
    /// Distance of the driver area from the descriptors.
    DriverOver(i16),
    /// Distance of the driver area from the device area: with a few bytes the index of one is the
    /// flags of the other.
    Meet(i8),
    /// Distance of the device area from the descriptors.
    DeviceOverTable(i16),
    /// At the end of RAM, or beyond it.
    AtTheEnd(u8, i16),
    Misaligned(u8, u8),
    /// Near 2^64.
    Wrapping(u8, u16),
    /// Anywhere.
    At(u8, u64),
    /// On the island.
    OnTheIsland(u16),
}

impl Layout {
    /// The rings of queue `index`.
    pub fn rings(&self, index: u64) -> Rings {
        let table = BASE + RINGS * index;
        let mut rings =
            Rings { size: 1 << self.size, table, driver: table + 0x1000, device: table + 0x1800 };
        let mut part = |which: u8, address: u64| match which % 3 {
            0 => rings.table = address,
            1 => rings.driver = address,
            _ => rings.device = address,
        };
        match self.odd {
            None => {}
            Some(Odd::Size(size)) => rings.size = size,
            Some(Odd::DriverOver(by)) => rings.driver = near(table, by.into()),
            Some(Odd::Meet(by)) => rings.driver = near(rings.device, by.into()),
            Some(Odd::DeviceOverTable(by)) => rings.device = near(table, by.into()),
            Some(Odd::AtTheEnd(which, by)) => part(which, near(BASE + LEN, by.into())),
            Some(Odd::Misaligned(which, by)) => part(which, table + 0x1001 + u64::from(by)),
            Some(Odd::Wrapping(which, by)) => part(which, u64::MAX - u64::from(by)),
            Some(Odd::At(which, address)) => part(which, address),
            Some(Odd::OnTheIsland(by)) => rings.device = ISLAND + u64::from(by),
        }
        rings
    }
}

fn near(address: u64, by: i64) -> u64 {
    address.wrapping_add_signed(by)
}

/// One fault of a chain.
#[derive(Debug, Clone, Arbitrary)]
pub enum Fault {
    /// Its last descriptor points to itself.
    SelfLoop,
    /// Its last descriptor points to its first.
    Loop,
    /// `next` outside the table, by this much.
    NextOutside(u16),
    /// The head outside the table, by this much.
    HeadOutside(u16),
    /// A buffer in the hole between the regions of RAM.
    Hole(u8),
    /// A buffer across the end of RAM, with this many bytes inside.
    AcrossTheEnd(u8, u8),
    /// A buffer whose end wraps, or nearly.
    Wraps(u8, u16),
    /// A length of this many bytes less than 2^32.
    Huge(u8, u8),
    /// A buffer of no bytes, anywhere.
    Empty(u8, u64),
    /// A buffer in a device's registers.
    Registers(u8),
    /// A buffer in the queue's own descriptors, driver area or device area.
    OverRings(u8, u16, u16),
    /// The other direction.
    Turned(u8),
    /// Flags that no driver sets.
    Flags(u8, u16),
    /// `avail.idx` advances by this much more.
    Jump(i16),
    /// The same head again.
    Again,
    /// The length of the indirect table in bytes.
    TableLen(u32),
    /// Somewhere else.
    TableAt(u64),
    /// With these flags.
    TableFlags(u16),
}

/// The layout of a chain.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// The first buffer that is in an indirect table.
    pub indirect_from: Option<u8>,
    /// Its faults.
    pub fault: Option<Fault>,
}

impl Shape {
    /// Whether the chain may share memory with another, or with a ring.
    pub fn is_shared(&self) -> bool {
        use Fault::{Again, Flags, Jump, OverRings, TableAt};
        matches!(
            self.fault,
            Some(Again | Flags(..) | Jump(_) | OverRings(..) | TableAt(_))
        )
    }
}

impl<'a> Arbitrary<'a> for Shape {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Shape { indirect_from: u.arbitrary()?, fault: seldom(u)? })
    }
}

/// A buffer of a chain.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A driver's state for one queue.
#[derive(Debug)]
pub struct Driver {
    rings: Rings,
    available: u16,
    free: u16,
    buffers: u64,
    tables: u64,
    /// Descriptors written so far.
    laid: usize,
    /// The end of buffers and indirect tables so far, for a driver that uses no memory twice.
    ends: (u64, u64),
}

impl Driver {
    /// The state for a queue at these addresses, whose words are all zero.
    pub fn new(rings: Rings) -> Driver {
        Driver {
            rings,
            available: 0,
            free: 0,
            buffers: BUFFERS,
            tables: TABLES,
            laid: 0,
            ends: (BASE + LEN, BUFFERS),
        }
    }

    /// The addresses of its rings.
    pub fn rings(&self) -> Rings {
        self.rings
    }

    /// Whether the rings of queue `index` are where a correct driver of two queues has them.
    pub fn is_regular(&self, index: u64) -> bool {
        let expected = Layout::default().rings(index);
        let places = |rings: Rings| (rings.table, rings.driver, rings.device);
        places(self.rings) == places(expected)
    }

    /// The same, for one of `count` queues that each have a part of the memory.
    pub fn sharing(rings: Rings, index: u64, count: u64) -> Driver {
        let part = |start: u64, end: u64| {
            let len = (end - start) / count / 16 * 16;
            (start + len * index, start + len * (index + 1))
        };
        let (buffers, tables) = (part(BUFFERS, BASE + LEN), part(TABLES, BUFFERS));
        Driver {
            buffers: buffers.0,
            tables: tables.0,
            ends: (buffers.1, tables.1),
            ..Driver::new(rings)
        }
    }

    /// Whether there is unused memory for a chain of `count` buffers, `bytes` in all.
    pub fn has_room(&self, count: usize, bytes: usize) -> bool {
        let bytes = (bytes + count) as u64;
        count > 0
            && self.laid + count <= self.rings.size.into()
            && self.buffers + bytes <= self.ends.0
            && self.tables + 16 * count as u64 <= self.ends.1
    }

    /// Allocates memory. It may be in use if none is free.
    fn room(&mut self, len: u64) -> u64 {
        // A gap of one byte, to detect writes beyond the end.
        if self.buffers + len + 1 > self.ends.0 {
            self.buffers = BUFFERS;
        }
        let address = self.buffers;
        self.buffers += len + 1;
        address
    }

    /// Writes a chain and makes it available: `readable` bytes split into pieces, then `writable`
    /// buffers of these lengths. Returns its head.
    pub fn offer(
        &mut self,
        ram: &mut Ram,
        readable: &[&[u8]],
        writable: &[u32],
        shape: &Shape,
    ) -> u16 {
        let mut buffers = Vec::new();
        for bytes in readable {
            let address = self.room(bytes.len() as u64);
            ram.write(address, bytes);
            buffers.push((address, bytes.len() as u32, 0));
        }
        for len in writable {
            buffers.push((self.room(u64::from(*len)), *len, WRITE));
        }
        let buffers = buffers.into_iter().map(|(address, len, flags)| Buffer {
            address,
            len,
            flags,
            next: 0,
        });
        self.lay(ram, buffers.collect(), shape)
    }

    fn lay(&mut self, ram: &mut Ram, mut direct: Vec<Buffer>, shape: &Shape) -> u16 {
        let fault = shape.fault.as_ref();
        if let Some(fault) = fault {
            self.bend(&mut direct, fault);
        }
        let from = shape.indirect_from.map(|from| usize::from(from % 16));
        if let Some(from) = from.filter(|from| *from < direct.len()) {
            let table = direct.split_off(from);
            direct.push(self.table(ram, table, fault));
        }
        let size = self.rings.size.max(1);
        let head = self.free % size;
        let last = direct.len().saturating_sub(1);
        for (count, buffer) in direct.iter_mut().enumerate() {
            if count < last {
                buffer.flags |= NEXT;
                buffer.next = (head + count as u16 + 1) % size;
            }
        }
        let here = (head + last as u16) % size;
        if let Some(end) = direct.last_mut()
            && let Some(next) = match fault {
                Some(Fault::SelfLoop) => Some(here),
                Some(Fault::Loop) => Some(head),
                Some(Fault::NextOutside(by)) => Some(size.saturating_add(*by)),
                _ => None,
            }
        {
            end.flags |= NEXT;
            end.next = next;
        }
        for (count, buffer) in direct.iter().enumerate() {
            let index = (head + count as u16) % size;
            let at = self.rings.table.wrapping_add(16 * u64::from(index));
            ram.write(at, &descriptor(buffer));
        }
        self.free = (head + direct.len() as u16) % size;
        self.laid += direct.len();
        match fault {
            Some(Fault::HeadOutside(by)) => self.publish(ram, size.saturating_add(*by), 1),
            Some(Fault::Again) => {
                self.publish(ram, head, 1);
                self.publish(ram, head, 1);
            }
            Some(Fault::Jump(by)) => self.publish(ram, head, by.wrapping_add(1) as u16),
            _ => self.publish(ram, head, 1),
        }
        head
    }

    /// Puts a head into the next slot, and advances the index.
    pub fn publish(&mut self, ram: &mut Ram, head: u16, by: u16) {
        let slot = u64::from(self.available % self.rings.size.max(1));
        let driver = self.rings.driver;
        ram.write(driver.wrapping_add(4 + 2 * slot), &head.to_le_bytes());
        self.available = self.available.wrapping_add(by);
        ram.write(driver.wrapping_add(2), &self.available.to_le_bytes());
    }

    /// Sets the notifications that the driver wants: `avail.flags` and `used_event`.
    pub fn wish(&mut self, ram: &mut Ram, flags: u16, event: u16) {
        let driver = self.rings.driver;
        ram.write(driver, &flags.to_le_bytes());
        let at = 4 + 2 * u64::from(self.rings.size);
        ram.write(driver.wrapping_add(at), &event.to_le_bytes());
    }

    fn bend(&self, buffers: &mut [Buffer], fault: &Fault) {
        let count = buffers.len().max(1);
        let mut set = |which: u8, address: u64, len: u32| {
            if let Some(buffer) = buffers.get_mut(usize::from(which) % count) {
                (buffer.address, buffer.len) = (address, len);
            }
        };
        match *fault {
            Fault::Hole(which) => set(which, BASE + LEN + 64, 64),
            Fault::AcrossTheEnd(which, inside) => {
                set(which, BASE + LEN - u64::from(inside), 256);
            }
            Fault::Wraps(which, by) => set(which, u64::MAX - u64::from(by), 0x1000),
            Fault::Huge(which, by) => set(which, BUFFERS, u32::MAX - u32::from(by)),
            Fault::Empty(which, address) => set(which, address, 0),
            Fault::Registers(which) => set(which, 0x1000_1000, 4),
            Fault::OverRings(which, by, len) => {
                let areas = [self.rings.table, self.rings.driver, self.rings.device];
                let area = areas[usize::from(by) % areas.len()];
                set(
                    which,
                    area.wrapping_add(u64::from(by % 64)),
                    (len % 256).into(),
                );
            }
            Fault::Turned(which) => {
                if let Some(buffer) = buffers.get_mut(usize::from(which) % count) {
                    buffer.flags ^= WRITE;
                }
            }
            Fault::Flags(which, flags) => {
                if let Some(buffer) = buffers.get_mut(usize::from(which) % count) {
                    buffer.flags ^= flags;
                }
            }
            _ => {}
        }
    }

    /// Writes an indirect table, and returns the descriptor that refers to it.
    fn table(&mut self, ram: &mut Ram, mut buffers: Vec<Buffer>, fault: Option<&Fault>) -> Buffer {
        let count = buffers.len();
        let len = 16 * count as u64;
        if self.tables + len > self.ends.1 {
            self.tables = TABLES;
        }
        let mut address = self.tables;
        self.tables += len;
        for (index, buffer) in buffers.iter_mut().enumerate() {
            if index + 1 < count {
                buffer.flags |= NEXT;
                buffer.next = index as u16 + 1;
            }
            ram.write(address + 16 * index as u64, &descriptor(buffer));
        }
        let (mut len, mut flags) = (len as u32, INDIRECT);
        match fault {
            Some(Fault::TableLen(bytes)) => len = *bytes,
            Some(Fault::TableAt(elsewhere)) => address = *elsewhere,
            Some(Fault::TableFlags(more)) => flags |= more,
            Some(Fault::AcrossTheEnd(_, inside)) => {
                address = ISLAND + ISLAND_LEN - u64::from(*inside);
            }
            _ => {}
        }
        Buffer { address, len, flags, next: 0 }
    }
}

/// § 2.7.5.
fn descriptor(buffer: &Buffer) -> [u8; 16] {
    let value = u128::from(buffer.address)
        | u128::from(buffer.len) << 64
        | u128::from(buffer.flags) << 96
        | u128::from(buffer.next) << 112;
    value.to_le_bytes()
}
