//! A disk on a socket: every message that a front end can send, in any order, with the device's
//! thread running.
//!
//! The timing of that thread is random, so no result is predicted, as with
//! [`mmio`](crate::transport::mmio). The target checks what a front end relies on: the connection
//! answers or ends; a stopped ring is not accessed; nothing of a disconnected front end is kept,
//! neither descriptors nor memory; and at the end a correct front end finds a working disk.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::block::{Block, Options};
use devices::transport::vhost_user::{Error, VhostUser};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::driver::{Driver, Layout, Shape};
use crate::file::new_file;
use crate::model::Rings;
use crate::ram::{BASE, ISLAND, ISLAND_LEN, LEN, Ram};
use crate::wait::wait_for;
use connection::{BODY_MAX, Connection, NEED_REPLY, VERSION};
use step::{Descriptor, Region, Step};

#[path = "../../devices/tests/support/vhost_user_codes.rs"]
mod code;
mod connection;
mod step;

const VERSION_1: u64 = 1 << 32;
/// MQ, REPLY_ACK, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15;

/// The front end's own address of guest memory at [`BASE`].
const USER: u64 = 0x7f12_3400_0000;

const SECTORS: usize = 8;
const QUEUES: usize = 2;

/// Front ends, one after another.
#[derive(Debug, Arbitrary)]
pub struct Case {
    steps: Vec<Step>,
}

fn user(address: u64) -> u64 {
    address.wrapping_sub(BASE).wrapping_add(USER)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A pair of 32-bit numbers: VhostUserVringState, among others.
fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

/// Runs a case. Panics if a front end does not get what it may rely on.
pub fn run(case: &Case) {
    let mut world = World::new();
    let before = Held::now();
    for step in &case.steps {
        world.step(step);
    }
    world.is_a_disk();
    assert_eq!(Held::now(), before, "resources left by front ends");
}

/// Resources of this process.
#[derive(Debug, PartialEq)]
struct Held {
    descriptors: usize,
    /// Mappings of files in memory.
    mappings: usize,
}

impl Held {
    fn now() -> Held {
        let descriptors = fs::read_dir("/proc/self/fd").expect("/proc").count();
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
        let mappings = maps.lines().filter(|line| line.contains("/memfd:fuzz"));
        Held { descriptors, mappings: mappings.count() }
    }
}

/// A disk's back end, and a guest that outlives its front ends.
struct World {
    backend: Arc<VhostUser>,
    ram: Ram,
    drivers: [Driver; QUEUES],
    events: [EventFd; 4],
    file: File,
    socket: UnixStream,
    connection: Option<Connection>,
    /// Whether each ring has not run since it was stopped. If so, nothing may write to guest
    /// memory.
    quiet: [bool; QUEUES],
}

impl World {
    fn new() -> World {
        let file = new_file(&[0x3c; SECTORS * 512]);
        let options = Options { queues: QUEUES as u16, ..Options::default() };
        let block = Block::with(file, (SECTORS * 512) as u64, &options);
        let event = || EventFd::new(EFD_NONBLOCK).expect("a descriptor");
        World {
            backend: Arc::new(VhostUser::new(Box::new(block)).expect("a thread")),
            ram: Ram::new(),
            drivers: [0, 1].map(|index| Driver::new(Layout::default().rings(index))),
            events: [event(), event(), event(), event()],
            file: new_file(&[0; 0x2000]),
            socket: UnixStream::pair().expect("descriptors").0,
            connection: None,
            quiet: [true; QUEUES],
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin(layout, upto) => self.begin(layout, (upto % 10).into()),
            Step::Plain(which) => self.plain(*which),
            Step::Features(declined, more) => {
                let features = self.features() & !(declined & !VERSION_1);
                let alien = more.map_or(0, |bit| 1 << (bit % 64));
                let fine = alien & !self.features() == 0;
                self.send(code::SET_FEATURES, &bytes(&[features | alien]), &[]);
                assert!(fine || self.connection.is_none(), "{alien:#x} was taken");
            }
            Step::Protocol(declined, more) => {
                let alien = more.map_or(0, |bit| 1 << (bit % 64));
                let body = bytes(&[PROTOCOL & !declined | alien]);
                self.send(code::SET_PROTOCOL_FEATURES, &body, &[]);
                let fine = alien & !PROTOCOL == 0;
                assert!(fine || self.connection.is_none(), "{alien:#x} was taken");
            }
            Step::Table(regions) => {
                let mut body = pair(regions.len() as u32, 0);
                body.extend(regions.iter().flat_map(|region| bytes(&region.words())));
                let files: Vec<_> = regions.iter().map(file_of).collect();
                self.send(code::SET_MEM_TABLE, &body, &files);
            }
            Step::Add(region) => self.region(code::ADD_MEM_REG, region, &[file_of(region)]),
            Step::Remove(region) => self.region(code::REM_MEM_REG, region, &[]),
            Step::Size(ring, size) => {
                self.send(code::SET_VRING_NUM, &pair(ring.index(), size.value()), &[]);
            }
            Step::Areas(ring, layout, other) => {
                let mut rings = layout.rings(u64::from(ring.0));
                if let Some(other) = other {
                    rings.driver = *other;
                }
                self.drivers[usize::from(ring.0)] = Driver::new(rings);
                self.areas(ring.index(), rings);
            }
            Step::Start(ring, base) => {
                self.send(code::SET_VRING_BASE, &pair(ring.index(), base.value()), &[]);
            }
            Step::Stop(ring) => self.stop(ring.index()),
            Step::Event(which, ring, descriptor) => {
                let which = code::SET_VRING_KICK + u32::from(which % 3);
                self.event(which, ring.index(), *descriptor);
            }
            Step::Enable(ring, enable) => {
                let body = pair(ring.index(), enable.value());
                self.send(code::SET_VRING_ENABLE, &body, &[]);
            }
            Step::ReadConfig(offset, len, odd) => {
                let (offset, len) = (u32::from(*offset), u32::from(*len));
                self.config(code::GET_CONFIG, [offset, len], vec![0; len as usize], odd);
            }
            Step::WriteConfig(offset, data, odd) => {
                let place = [u32::from(*offset), 4];
                self.config(code::SET_CONFIG, place, data.to_vec(), odd);
            }
            Step::Any { code, flags, words, descriptors } => {
                let code = u32::from(code % 48);
                let words: Vec<u64> = words.iter().map(|word| word.value()).collect();
                // GET_FEATURES marks the end of the answers. And a ring may have started.
                if code != code::GET_FEATURES {
                    self.loud();
                    let flags = flags.unwrap_or(VERSION | NEED_REPLY);
                    self.message(code, flags, &bytes(&words), descriptors);
                }
            }
            Step::Truncated(code, body, len) => self.truncated((*code).into(), body, *len),
            Step::HangUp => self.hang_up(),
            Step::Offer { ring, writable, header, shape } => {
                let mut request = [0; 16];
                request[0] = header[0] % 16;
                request[8..].copy_from_slice(&header[2..]);
                let writable: Vec<u32> = writable.iter().map(|len| u32::from(len % 2048)).collect();
                let driver = &mut self.drivers[usize::from(*ring)];
                driver.offer(&mut self.ram, &[&request], &writable, shape);
            }
            Step::Notify(ring) => {
                let _ = self.events[usize::from(*ring)].write(1);
            }
        }
    }

    /// The connection has ended: nothing of it may remain.
    fn ended(&mut self) {
        if let Some(connection) = self.connection.take() {
            let ended = connection.served.join().expect("no panic");
            assert!(!matches!(ended, Err(Error::Lost)), "{ended:?}");
        }
        self.settle([true; QUEUES]);
    }

    fn hang_up(&mut self) {
        if let Some(connection) = &self.connection {
            let _ = connection.stream.shutdown(Shutdown::Write);
            while self.answer().is_some() {}
        }
    }

    /// A truncated message, or one that is longer or shorter than its header says. Anything after
    /// it is undefined.
    fn truncated(&mut self, code: u32, body: &[u8], len: u32) {
        self.loud();
        let body = &body[..body.len().min(BODY_MAX)];
        self.say(code, VERSION, len % 0x2000, body, &[]);
        self.hang_up();
    }

    /// A ring may run from here on.
    fn loud(&mut self) {
        self.quiet = [false; QUEUES];
    }

    /// These rings have stopped: accepts what the device has written so far; from here on it may
    /// not write.
    fn settle(&mut self, stopped: [bool; QUEUES]) {
        let all = |quiet: [bool; QUEUES]| quiet.iter().all(|quiet| *quiet);
        let before = all(self.quiet);
        for (quiet, stopped) in self.quiet.iter_mut().zip(stopped) {
            *quiet |= stopped;
        }
        if !before && all(self.quiet) {
            self.ram.accept(BASE, LEN as usize);
            self.ram.accept(ISLAND, ISLAND_LEN as usize);
        }
        self.look();
    }

    fn look(&mut self) {
        if self.quiet.iter().all(|quiet| *quiet) {
            self.ram.check();
        }
    }

    fn plain(&mut self, which: u8) {
        const PLAIN: [u32; 6] = [
            code::SET_OWNER,
            code::RESET_OWNER,
            code::GET_PROTOCOL_FEATURES,
            code::GET_QUEUE_NUM,
            code::RESET_DEVICE,
            code::GET_MAX_MEM_SLOTS,
        ];
        let code = PLAIN[usize::from(which) % PLAIN.len()];
        self.send(code, &[], &[]);
        if matches!(code, code::RESET_OWNER | code::RESET_DEVICE) {
            self.settle([true; QUEUES]);
        }
    }

    fn region(&mut self, code: u32, region: &Region, files: &[Descriptor]) {
        let mut body = vec![0; 8];
        body.extend(bytes(&region.words()));
        self.send(code, &body, files);
    }

    fn areas(&mut self, ring: u32, rings: Rings) {
        let mut body = pair(ring, 0);
        let areas = [rings.table, rings.device, rings.driver].map(user);
        body.extend(bytes(&areas));
        body.extend([0; 8]);
        self.send(code::SET_VRING_ADDR, &body, &[]);
    }

    fn event(&mut self, code: u32, ring: u32, descriptor: Descriptor) {
        if code == code::SET_VRING_KICK
            && let Some(quiet) = self.quiet.get_mut(ring as usize & 0xff)
        {
            *quiet = false;
        }
        let none = if matches!(descriptor, Descriptor::None) {
            0x100
        } else {
            0
        };
        let body = bytes(&[u64::from(ring & 0xff) | none]);
        self.send(code, &body, &[descriptor]);
    }

    /// GET_VRING_BASE: after the answer nothing accesses the ring.
    fn stop(&mut self, ring: u32) {
        self.send(code::GET_VRING_BASE, &pair(ring, 0), &[]);
        let mut stopped = [false; QUEUES];
        if let Some(stopped) = stopped.get_mut(ring as usize) {
            *stopped = true;
        }
        self.settle(stopped);
    }

    fn config(&mut self, code: u32, place: [u32; 2], data: Vec<u8>, odd: &Option<[u32; 2]>) {
        let [offset, len] = odd.unwrap_or(place);
        let mut body = pair(offset, len);
        body.extend([0; 4]);
        body.extend(data);
        self.send(code, &body, &[]);
    }

    /// The start sequence of a front end, up to step `upto` of ten.
    fn begin(&mut self, layout: &Layout, upto: usize) {
        self.hang_up();
        for event in &self.events {
            let _ = event.read();
        }
        self.ram.write(BASE, &[0; 0x8000]);
        let features = self.features();
        self.send(code::SET_PROTOCOL_FEATURES, &bytes(&[PROTOCOL]), &[]);
        if upto > 0 {
            self.send(code::SET_FEATURES, &bytes(&[features]), &[]);
        }
        if upto > 1 {
            let regions = [false, true].map(|island| Region { island, odd: None, file: None });
            self.step(&Step::Table(regions.into()));
        }
        for index in 0..QUEUES as u32 {
            let rings = layout.rings(index.into());
            self.drivers[index as usize] = Driver::new(rings);
            if upto > 2 {
                self.send(code::SET_VRING_NUM, &pair(index, rings.size.into()), &[]);
            }
            if upto > 3 {
                self.send(code::SET_VRING_BASE, &pair(index, 0), &[]);
            }
            if upto > 4 {
                self.areas(index, rings);
            }
            if upto > 5 {
                self.event(code::SET_VRING_CALL, index, Descriptor::Event(2));
            }
            if upto > 6 {
                self.event(code::SET_VRING_ERR, index, Descriptor::Event(3));
            }
            if upto > 7 {
                let kick = Descriptor::Event(index as u8);
                self.event(code::SET_VRING_KICK, index, kick);
            }
            if upto > 8 {
                self.send(code::SET_VRING_ENABLE, &pair(index, 1), &[]);
            }
        }
    }

    /// A correct front end, after whatever others did.
    fn is_a_disk(&mut self) {
        let layout = Layout::default();
        self.begin(&layout, 9);
        let mut out = [0; 16 + 512];
        out[0] = 1;
        out[8] = 3;
        out[16..].fill(0x77);
        let mut read = [0; 16];
        read[8] = 3;
        let shape = Shape::default();
        let driver = &mut self.drivers[0];
        driver.offer(&mut self.ram, &[&out], &[1], &shape);
        let head = driver.offer(&mut self.ram, &[&read], &[512, 1], &shape);
        self.events[0].write(1).expect("an event");
        let rings = layout.rings(0);
        wait_for("the requests to come back", || {
            self.ram.found(rings.device + 2, 2) == [2, 0]
        });
        self.say(
            code::GET_VRING_BASE,
            VERSION | NEED_REPLY,
            8,
            &pair(0, 0),
            &[],
        );
        assert_eq!(self.answer(), Some((code::GET_VRING_BASE, pair(0, 2))));
        let buffer = self.ram.found(rings.table + 16 * u64::from(head + 1), 8);
        let address = u64::from_le_bytes(buffer.try_into().expect("8"));
        assert_eq!(self.ram.found(address, 512), [0x77; 512]);
        assert!(self.events[2].read().is_ok(), "no call");
        assert!(self.events[3].read().is_err(), "an unexpected error signal");
        self.stop(1);
        self.settle([true; QUEUES]);
        // A valid request is not served now. If the ring still ran, the thread would see the
        // notification before the connection ends.
        self.drivers[0].offer(&mut self.ram, &[&read], &[512, 1], &shape);
        self.events[0].write(1).expect("an event");
        self.hang_up();
        self.ram.check();
    }
}

fn file_of(region: &Region) -> Descriptor {
    region.file.unwrap_or(Descriptor::Ram)
}
