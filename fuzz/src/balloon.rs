//! Compares the memory balloon with the queue's [`model`](crate::model): after each step guest
//! memory must equal the model's, byte for byte. What goes back to the host is zero.

use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::balloon::{Balloon, PAGE, Target, feature};
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};

use crate::driver::{Driver, Shape, few};
use crate::model::{Model, QueueError, Stream};
use crate::queue::{Nowhere, SetUp};
use crate::ram::{BASE, Ram};

/// The two queues of a case are that of inflation and another one.
const QUEUES: usize = 2;
const STATISTICS: usize = 2;
const SIZE: u16 = 128;
const OFFERED: u64 = feature::STATS_VQ | feature::PAGE_REPORTING;

/// The most pages of a buffer that go back.
const PAGES_MAX: usize = 4096;

/// The steps of a guest with a balloon, and of the host.
#[derive(Debug, Arbitrary)]
pub struct Case {
    set_up: Start,
    steps: Vec<Step>,
}

/// A set-up, and which queue beside that of inflation the driver uses.
#[derive(Debug, Default, Arbitrary)]
struct Start(SetUp, u8);

#[derive(Debug, Arbitrary)]
enum Step {
    Offer {
        queue: bool,
        #[arbitrary(with = few)]
        readable: Vec<Vec<u8>>,
        #[arbitrary(with = few)]
        writable: Vec<u16>,
        shape: Shape,
    },
    /// The numbers of pages in RAM and around it.
    Name {
        queue: bool,
        #[arbitrary(with = few)]
        pages: Vec<u8>,
        any: Option<u32>,
    },
    Wish(bool, u16, u16),
    Write(u32, [u8; 4]),
    Kick(bool),
    /// The host wants statistics.
    Ask,
    /// The device's thread sees that.
    Ready,
    Configure(u8, [u8; 8], u8),
    Resize(u64),
    Reset(Start),
}

/// Runs a case. Panics when device and model disagree.
pub fn run(case: &Case) {
    let mut pair = Pair::new();
    pair.set_up(&case.set_up);
    for step in &case.steps {
        pair.step(step);
    }
    // After a reset a page goes back, whatever happened before.
    pair.set_up(&Start::default());
    pair.ram.write(BASE + 0x1_f000, &[1; PAGE as usize]);
    pair.step(&Step::Name { queue: false, pages: vec![0x1f + MARGIN], any: None });
    pair.step(&Step::Kick(false));
    assert_eq!(
        pair.ram.found(BASE + 0x1_f000, PAGE as usize),
        [0; PAGE as usize]
    );
}

/// The first pages that are named are this many below RAM.
const MARGIN: u8 = 16;

/// Device and model.
struct Pair {
    ram: Ram,
    balloon: Balloon,
    target: Arc<Target>,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    /// `None` if the driver has not set it up, and once one is broken.
    models: [Option<Model>; QUEUES],
    places: [usize; QUEUES],
    drivers: Vec<Driver>,
    features: u64,
    config: [u8; 8],
    /// The host wants statistics.
    wanted: bool,
}

impl Pair {
    fn new() -> Pair {
        let balloon = Balloon::new(OFFERED).expect("a descriptor");
        Pair {
            ram: Ram::new(),
            target: balloon.target(),
            balloon,
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            models: [None, None],
            places: [0, 1],
            drivers: Vec::new(),
            features: 0,
            config: [0; 8],
            wanted: false,
        }
    }

    /// A reset, then the set-up of a driver, which must always succeed.
    fn set_up(&mut self, Start(set_up, second): &Start) {
        self.queues = Queues::new(Vec::new());
        self.balloon.reset();
        self.interrupt.reset();
        self.wanted = false;
        self.config[4..].fill(0);
        self.places = [0, 1 + usize::from(second % 4)];
        let offered = self.balloon.features();
        let started = set_up.start_at(self.places, &mut self.ram, offered, SIZE, &self.interrupt);
        (self.queues, self.models) = (started.queues, started.models);
        (self.drivers, self.features) = (started.drivers, started.features);
        self.balloon.activate(self.features, &self.ram.memory());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { queue, readable, writable, shape } => {
                let readable: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
                let writable: Vec<u32> = writable.iter().map(|len| (*len).into()).collect();
                let driver = &mut self.drivers[usize::from(*queue)];
                driver.offer(&mut self.ram, &readable, &writable, shape);
            }
            Step::Name { queue, pages, any } => {
                let first = (BASE / PAGE) as u32 - u32::from(MARGIN);
                let near = pages.iter().map(|page| first + u32::from(*page % 80));
                let pages: Vec<u8> = near.chain(*any).flat_map(u32::to_le_bytes).collect();
                let driver = &mut self.drivers[usize::from(*queue)];
                driver.offer(&mut self.ram, &[&pages], &[], &Shape::default());
            }
            Step::Wish(queue, flags, event) => {
                self.drivers[usize::from(*queue)].wish(&mut self.ram, *flags, *event);
            }
            Step::Write(offset, bytes) => {
                self.ram.write(BASE + u64::from(*offset % 0x8000), bytes);
            }
            Step::Kick(queue) => {
                let nth = usize::from(*queue);
                if self.models[nth].is_some() {
                    let place = self.places[nth];
                    let kicked = self.balloon.process_queue(place, &mut self.queues);
                    self.compare(nth, kicked.is_err());
                }
            }
            Step::Ask => {
                self.target.request_statistics();
                self.wanted = true;
            }
            Step::Ready => {
                let ready = self.balloon.handle_event(0, &mut self.queues);
                if self.places[1] == STATISTICS && self.features & feature::STATS_VQ != 0 {
                    self.compare(1, ready.is_err());
                }
            }
            Step::Configure(offset, bytes, len) => {
                self.configure((*offset).into(), &bytes[..usize::from(len % 9)]);
            }
            Step::Resize(bytes) => {
                self.target.set(*bytes);
                let pages = u32::try_from(*bytes / PAGE).unwrap_or(u32::MAX);
                self.config[..4].copy_from_slice(&pages.to_le_bytes());
                self.configure(0, &[]);
            }
            Step::Reset(start) => self.set_up(start),
        }
    }

    /// The device has served a queue, with this result: so does the model.
    fn compare(&mut self, nth: usize, failed: bool) {
        let Some(model) = &mut self.models[nth] else {
            assert!(!failed);
            return;
        };
        let place = self.places[nth];
        let has = |feature| self.features & feature != 0;
        let statistics = place == STATISTICS && has(feature::STATS_VQ);
        let reports = place >= STATISTICS && has(feature::PAGE_REPORTING);
        let wanted = &mut self.wanted;
        let drained = model.drain(&mut self.ram, |ram, chain| {
            if statistics {
                return std::mem::take(wanted).then_some(0);
            }
            if place == 0 {
                inflate(ram, &mut chain.readable);
            } else if reports {
                for (address, len) in chain.writable.take(u64::MAX) {
                    discard(ram, address, len);
                }
            }
            Some(0)
        });
        assert_eq!(failed, drained == Err(QueueError));
        let interrupts = std::mem::take(&mut model.interrupts) > 0;
        assert_eq!(self.interrupt.status(), u32::from(interrupts));
        self.interrupt.acknowledge(u32::MAX);
        if failed {
            // Nothing processes the queues until the reset.
            self.models = [None, None];
            self.queues = Queues::new(Vec::new());
        } else {
            let queue = self.queues.get(place).expect("it is active");
            assert_eq!(queue.is_unfinished(), model.unfinished);
        }
        self.ram.check();
    }

    /// Writes to the configuration space, and compares all of it.
    fn configure(&mut self, offset: usize, bytes: &[u8]) {
        let config = self.balloon.config();
        config.write(offset, bytes);
        for (at, byte) in (offset..).zip(bytes) {
            if (4..8).contains(&at) {
                self.config[at] = *byte;
            }
        }
        let mut read = [0xff; 12];
        config.read(0, &mut read);
        assert_eq!(read[..8], self.config);
        assert_eq!(read[8..], [0; 4]);
    }
}

/// A range of adjacent pages goes back if all of it is RAM.
fn inflate(ram: &mut Ram, numbers: &mut Stream) {
    let mut range: Option<(u64, u64)> = None;
    for _ in 0..PAGES_MAX {
        let Ok(number) = <[u8; 4]>::try_from(numbers.read(ram, 4)) else {
            break;
        };
        let page = u64::from(u32::from_le_bytes(number));
        range = Some(match range {
            Some((first, last)) if page == last + 1 => (first, page),
            Some((first, last)) if page + 1 == first => (page, last),
            other => {
                give_back(ram, other);
                (page, page)
            }
        });
    }
    give_back(ram, range);
}

fn give_back(ram: &mut Ram, range: Option<(u64, u64)>) {
    if let Some((first, last)) = range {
        discard(ram, first * PAGE, (last - first + 1) * PAGE);
    }
}

/// The whole pages of a range are zero.
fn discard(ram: &mut Ram, address: u64, len: u64) {
    let first = address.next_multiple_of(PAGE);
    let end = (address + len) / PAGE * PAGE;
    if first < end && ram.get(address, len).is_some() {
        ram.put(first, &vec![0; (end - first) as usize]);
    }
}
