//! A disk behind its registers: every access that a guest can make, in any order, with the device's
//! thread running.
//!
//! The timing of that thread is random, so no result is predicted. The target checks what holds at
//! any time, above all after a reset. At the end a correct driver must find a working disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Arbitrary;
use devices::block::Block;
use devices::irq::IrqLine;
use devices::platform::bus::BusDevice;
use devices::transport::mmio::Mmio;

use crate::driver::{Driver, Layout, Shape, few, seldom};
use crate::file::new_file;
use crate::model::Rings;
use crate::ram::{BASE, LEN, Ram};
use crate::wait::wait_for;

/// § 4.2.2.
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const CONFIG: u64 = 0x100;
}

/// § 2.1.
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

const VERSION_1: u64 = 1 << 32;

const SECTORS: usize = 8;

/// The steps of a guest with a register page.
#[derive(Debug, Arbitrary)]
pub struct Case {
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// A register of the list, by a correct access of 32 bits.
    Store(u8, Value),
    Load(u8),
    /// Any access to the page.
    AnyStore(u16, [u8; 8], u8),
    AnyLoad(u16, u8),
    /// The start sequence of a driver, up to this step. It declines some features, and sometimes
    /// accepts one that was not offered.
    Begin(Layout, u64, #[arbitrary(with = seldom)] Option<u8>, u8),
    Offer {
        #[arbitrary(with = few)]
        writable: Vec<u16>,
        header: [u8; 10],
        shape: Shape,
    },
    Notify(u8),
    Reset,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Value {
    Small(u8),
    Bit(u8),
    Ram(u16),
    Any(u32),
}

impl Value {
    fn word(self) -> u32 {
        match self {
            Value::Small(value) => value.into(),
            Value::Bit(bit) => 1 << (bit % 32),
            Value::Ram(offset) => BASE as u32 + u32::from(offset),
            Value::Any(value) => value,
        }
    }
}

#[derive(Clone, Default)]
struct Wire(Arc<AtomicBool>);

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        self.0.store(high, Ordering::SeqCst);
    }
}

/// Runs a case. Panics if the registers violate the specification.
pub fn run(case: &Case) {
    let file = new_file(&[0x3c; SECTORS * 512]);
    let block = Block::new(file, (SECTORS * 512) as u64, false, "fuzzed");
    let (ram, wire) = (Ram::new(), Wire::default());
    let mmio = Mmio::new(Box::new(block), ram.memory(), Box::new(wire.clone()));
    let mut page = Page {
        mmio: mmio.expect("a descriptor"),
        ram,
        wire,
        accepted: 0,
        accepted_sel: 0,
        driver: Driver::new(Layout::default().rings(0)),
    };
    for step in &case.steps {
        page.step(step);
    }
    page.is_a_disk();
}

struct Page {
    mmio: Mmio,
    ram: Ram,
    wire: Wire,
    /// The features that the driver wrote while it could.
    accepted: u64,
    accepted_sel: u32,
    driver: Driver,
}

impl Page {
    fn load(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// A store, with its checks.
    fn store(&mut self, offset: u64, value: u32) {
        let before = self.load(register::STATUS);
        if before & DRIVER_OK == 0 {
            // The device is not live: only the driver may have written.
            self.ram.check();
        }
        self.mmio.write(offset, &value.to_le_bytes());
        let after = self.load(register::STATUS);
        match offset {
            register::STATUS if value == 0 => return self.was_reset(),
            register::DRIVER_FEATURES_SEL => self.accepted_sel = value,
            register::DRIVER_FEATURES if before & FEATURES_OK == 0 && self.accepted_sel < 2 => {
                let shift = 32 * self.accepted_sel;
                self.accepted &= !(0xffff_ffff << shift);
                self.accepted |= u64::from(value) << shift;
            }
            _ => {}
        }
        let new = after & !before;
        assert_eq!(before & !after, 0, "only a reset takes status bits");
        let wanted = if offset == register::STATUS { value } else { 0 };
        assert_eq!(
            new & !wanted & !NEEDS_RESET,
            0,
            "unexpected status bits {new:#x}"
        );
        if new & FEATURES_OK != 0 {
            let offered = self.offered();
            assert_eq!(self.accepted & !offered, 0, "{:#x}", self.accepted);
            assert_ne!(self.accepted & VERSION_1, 0);
        }
        if new & DRIVER_OK != 0 {
            // Both bits in one store count as two steps.
            assert_ne!(after & FEATURES_OK, 0, "from {before:#x}");
        }
    }

    /// The offered features. The selector is not restored: no driver relies on it.
    fn offered(&self) -> u64 {
        let half = |sel: u32| {
            let data = sel.to_le_bytes();
            self.mmio.write(register::DEVICE_FEATURES_SEL, &data);
            u64::from(self.load(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// § 2.4, § 4.2.2.1: every register has its initial value, and no memory is in use.
    fn was_reset(&mut self) {
        self.accepted = 0;
        self.accepted_sel = 0;
        assert_eq!(self.load(register::STATUS), 0);
        assert_eq!(self.load(register::INTERRUPT_STATUS), 0);
        assert_eq!(self.load(register::QUEUE_READY), 0);
        assert!(!self.wire.0.load(Ordering::SeqCst), "the wire is high");
        // Accept what the device has written so far; from here on it may not write.
        self.ram.accept(BASE, LEN as usize);
        self.ram
            .accept(crate::ram::ISLAND, crate::ram::ISLAND_LEN as usize);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Store(which, value) => {
                let offset = u64::from(which % 64) * 4;
                self.store(offset, value.word());
            }
            Step::Load(which) => self.look(u64::from(which % 64) * 4),
            Step::AnyStore(offset, bytes, len) => {
                let offset = u64::from(offset % 0x1000);
                match usize::from(len % 9) {
                    // A correct access: it has an effect.
                    4 if offset.is_multiple_of(4) && offset < register::CONFIG => {
                        let [a, b, c, d, ..] = *bytes;
                        self.store(offset, u32::from_le_bytes([a, b, c, d]));
                    }
                    len => {
                        let before = self.load(register::STATUS);
                        self.mmio.write(offset, &bytes[..len]);
                        let after = self.load(register::STATUS);
                        assert_eq!((before ^ after) & !NEEDS_RESET, 0);
                    }
                }
            }
            Step::AnyLoad(offset, len) => {
                let (offset, len) = (u64::from(offset % 0x1000), usize::from(len % 9));
                // An odd load returns the bytes of the page.
                let stands = |at: u64| self.load(at & !3).to_le_bytes()[(at % 4) as usize];
                let control = (offset..register::CONFIG).take(len);
                let before: Vec<u8> = control.clone().map(stands).collect();
                let mut data = [0; 8];
                self.mmio.read(offset, &mut data[..len]);
                let after: Vec<u8> = control.map(stands).collect();
                // Unless the device's thread has just changed one of them.
                let same = before != after || data[..before.len()] == before;
                assert!(same, "{data:x?} at {offset:#x}, but {before:x?}");
            }
            Step::Begin(layout, declined, more, upto) => {
                let more = more.map_or(0, |bit| 1 << (bit % 64));
                let accepted = self.offered() & !(declined & !VERSION_1) | more;
                self.begin(layout.rings(0), accepted, (upto % 8).into());
            }
            Step::Offer { writable, header, shape } => {
                let mut request = [0; 16];
                request[0] = header[0] % 16;
                request[8..].copy_from_slice(&header[2..]);
                let writable: Vec<u32> = writable.iter().map(|len| u32::from(len % 2048)).collect();
                self.driver
                    .offer(&mut self.ram, &[&request], &writable, shape);
            }
            Step::Notify(queue) => self.store(register::QUEUE_NOTIFY, u32::from(queue % 4)),
            Step::Reset => self.store(register::STATUS, 0),
        }
    }

    fn look(&self, offset: u64) {
        let value = self.load(offset);
        match offset {
            register::MAGIC => assert_eq!(value, 0x7472_6976),
            0x004 | 0x008 => assert_eq!(value, 2),
            register::QUEUE_READY => assert!(value < 2),
            register::QUEUE_SIZE_MAX => assert!(value == 0 || value.is_power_of_two()),
            register::INTERRUPT_STATUS => assert!(value < 4),
            _ => {}
        }
    }

    /// The steps of § 3.1.1, up to `upto` of eight.
    fn begin(&mut self, rings: Rings, accepted: u64, upto: usize) {
        let half = |value: u64, sel: u32| (value >> (32 * sel)) as u32;
        self.store(register::STATUS, 0);
        self.driver = Driver::new(rings);
        self.ram.write(BASE, &[0; 0x8000]);
        if upto > 0 {
            self.store(register::STATUS, 1);
            self.store(register::STATUS, 3);
        }
        if upto > 1 {
            for sel in [0, 1] {
                self.store(register::DRIVER_FEATURES_SEL, sel);
                self.store(register::DRIVER_FEATURES, half(accepted, sel));
            }
        }
        if upto > 2 {
            self.store(register::STATUS, 11);
        }
        if upto > 3 {
            self.store(register::QUEUE_SEL, 0);
            self.store(register::QUEUE_SIZE, rings.size.into());
            let areas = [
                (register::QUEUE_DESC, rings.table),
                (register::QUEUE_DRIVER, rings.driver),
                (register::QUEUE_DEVICE, rings.device),
            ];
            for (low, address) in areas {
                self.store(low, half(address, 0));
                self.store(low + 4, half(address, 1));
            }
        }
        if upto > 4 {
            self.store(register::QUEUE_READY, 1);
        }
        if upto > 5 {
            self.store(register::STATUS, 15);
        }
    }

    /// After a reset it is a working disk, whatever happened before.
    fn is_a_disk(&mut self) {
        let rings = Layout::default().rings(0);
        self.begin(rings, self.offered(), 7);
        assert_eq!(self.load(register::STATUS), 15);
        let mut out = [0; 16 + 512];
        out[0] = 1;
        out[8] = 3;
        out[16..].fill(0x77);
        let mut read = [0; 16];
        read[8] = 3;
        let shape = Shape::default();
        self.driver.offer(&mut self.ram, &[&out], &[1], &shape);
        let head = self
            .driver
            .offer(&mut self.ram, &[&read], &[512, 1], &shape);
        self.store(register::QUEUE_NOTIFY, 0);
        wait_for("the requests to come back", || {
            self.ram.found(rings.device + 2, 2) == [2, 0]
        });
        // The second used element: its head, and 513 bytes written.
        let element = self.ram.found(rings.device + 12, 8);
        assert_eq!(
            element,
            [u32::from(head).to_le_bytes(), 513_u32.to_le_bytes()].concat()
        );
        let buffer = self.ram.found(rings.table + 16 * u64::from(head + 1), 8);
        let address = u64::from_le_bytes(buffer.try_into().expect("8"));
        assert_eq!(self.ram.found(address, 512), [0x77; 512]);
        self.store(register::INTERRUPT_ACK, 3);
        self.store(register::STATUS, 0);
        self.ram.check();
    }
}
