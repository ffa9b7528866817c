//! Compares the input device, whose only key is the power key, with the queue's
//! [`model`](crate::model): after each step guest memory must equal the model's, byte for byte.

use std::collections::VecDeque;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::input::{Input, PowerKey};
use devices::transport::interrupt::Interrupt;
use devices::virtio::{Queues, VirtioDevice};

use crate::driver::{Driver, Shape, few};
use crate::model::{Model, QueueError};
use crate::queue::{Nowhere, SetUp};
use crate::ram::{BASE, Ram};

/// The queues of events and of status.
const QUEUES: usize = 2;
const EVENTS: usize = 0;
const SIZE: u16 = 64;
/// Bytes of the configuration space.
const CONFIG: usize = 136;

/// EV_KEY KEY_POWER 1, EV_SYN, EV_KEY KEY_POWER 0, EV_SYN, as bytes.
const PRESS: [[u8; 8]; 4] = [
    [1, 0, 116, 0, 1, 0, 0, 0],
    [0; 8],
    [1, 0, 116, 0, 0, 0, 0, 0],
    [0; 8],
];

/// The steps of a guest with a power key, and of the host that presses it.
#[derive(Debug, Arbitrary)]
pub struct Case {
    set_up: SetUp,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Offer {
        queue: bool,
        #[arbitrary(with = few)]
        readable: Vec<Vec<u8>>,
        #[arbitrary(with = few)]
        writable: Vec<u8>,
        shape: Shape,
    },
    /// A buffer for one event, as Linux offers it.
    Buffer,
    Wish(bool, u16, u16),
    Write(u32, [u8; 4]),
    Kick(bool),
    Press,
    /// The device's thread sees the key.
    Ready,
    Configure(u8, [u8; 8], u8),
    /// VIRTIO_F_RING_RESET of both queues, which the driver then does not use again.
    QueueReset,
    Reset(SetUp),
}

/// Runs a case. Panics when device and model disagree.
pub fn run(case: &Case) {
    let mut pair = Pair::new();
    pair.set_up(&case.set_up);
    for step in &case.steps {
        pair.step(step);
    }
    // After a reset the key works, whatever happened before.
    pair.set_up(&SetUp::default());
    for _ in PRESS {
        pair.step(&Step::Buffer);
    }
    pair.step(&Step::Kick(false));
    let before = pair.sent;
    pair.step(&Step::Press);
    pair.step(&Step::Ready);
    assert_eq!(pair.sent - before, PRESS.len());
}

/// Device and model.
struct Pair {
    ram: Ram,
    input: Input,
    key: Arc<PowerKey>,
    interrupt: Arc<Interrupt>,
    queues: Queues,
    /// `None` if the driver has not set it up, or has reset it, and once one is broken.
    models: [Option<Model>; QUEUES],
    drivers: Vec<Driver>,
    selected: [u8; 2],
    /// The driver waits for events.
    awaited: bool,
    pressed: bool,
    pending: VecDeque<[u8; 8]>,
    /// Events that the model has sent.
    sent: usize,
}

impl Pair {
    fn new() -> Pair {
        let input = Input::new().expect("a descriptor");
        Pair {
            ram: Ram::new(),
            key: input.key(),
            input,
            interrupt: Arc::new(Interrupt::new(Box::new(Nowhere))),
            queues: Queues::new(Vec::new()),
            models: [None, None],
            drivers: Vec::new(),
            selected: [0; 2],
            awaited: false,
            pressed: false,
            pending: VecDeque::new(),
            sent: 0,
        }
    }

    /// A reset, then the set-up of a driver, which must always succeed.
    fn set_up(&mut self, set_up: &SetUp) {
        self.queues = Queues::new(Vec::new());
        self.input.reset();
        self.interrupt.reset();
        self.forget();
        self.selected = [0; 2];
        let offered = self.input.features();
        let started = set_up.start(&mut self.ram, offered, SIZE, &self.interrupt);
        (self.queues, self.models) = (started.queues, started.models);
        self.drivers = started.drivers;
        self.input.activate(started.features, &self.ram.memory());
    }

    fn forget(&mut self) {
        (self.awaited, self.pressed) = (false, false);
        self.pending.clear();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { queue, readable, writable, shape } => {
                let readable: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
                let writable: Vec<u32> = writable.iter().map(|len| (*len).into()).collect();
                let driver = &mut self.drivers[usize::from(*queue)];
                driver.offer(&mut self.ram, &readable, &writable, shape);
            }
            Step::Buffer => {
                let driver = &mut self.drivers[EVENTS];
                driver.offer(&mut self.ram, &[], &[8], &Shape::default());
            }
            Step::Wish(queue, flags, event) => {
                self.drivers[usize::from(*queue)].wish(&mut self.ram, *flags, *event);
            }
            Step::Write(offset, bytes) => {
                self.ram.write(BASE + u64::from(*offset % 0x8000), bytes);
            }
            Step::Kick(queue) => {
                let index = usize::from(*queue);
                if self.models[index].is_some() {
                    let kicked = self.input.process_queue(index, &mut self.queues);
                    self.compare(index, kicked.is_err());
                }
            }
            Step::Press => {
                assert_eq!(self.key.press(), self.awaited);
                self.pressed |= self.awaited;
            }
            Step::Ready => {
                let ready = self.input.handle_event(0, &mut self.queues);
                if std::mem::take(&mut self.pressed) && self.pending.is_empty() {
                    self.pending.extend(PRESS);
                }
                self.compare(EVENTS, ready.is_err());
            }
            Step::Configure(offset, bytes, len) => {
                self.configure((*offset).into(), &bytes[..usize::from(len % 9)]);
            }
            Step::QueueReset => {
                self.stop();
                (0..QUEUES).for_each(|index| self.input.queue_reset(index));
                self.forget();
            }
            Step::Reset(set_up) => self.set_up(set_up),
        }
    }

    /// Nothing processes the queues until the reset.
    fn stop(&mut self) {
        self.models = [None, None];
        self.queues = Queues::new(vec![None, None]);
    }

    /// The device has served a queue, with this result: so does the model.
    fn compare(&mut self, index: usize, failed: bool) {
        let Some(model) = &mut self.models[index] else {
            assert!(!failed);
            return;
        };
        let (pending, awaited, sent) = (&mut self.pending, &mut self.awaited, &mut self.sent);
        let drained = model.drain(&mut self.ram, |ram, chain| {
            if index != EVENTS {
                return Some(0);
            }
            let Some(event) = pending.front() else {
                *awaited = true;
                return None;
            };
            if chain.writable.len() < 8 {
                return Some(0);
            }
            chain.writable.write(ram, event);
            pending.pop_front();
            *sent += 1;
            Some(8)
        });
        assert_eq!(failed, drained == Err(QueueError));
        let wanted = std::mem::take(&mut model.interrupts) > 0;
        assert_eq!(self.interrupt.status(), u32::from(wanted));
        self.interrupt.acknowledge(u32::MAX);
        if failed {
            self.stop();
        } else {
            let queue = self.queues.get(index).expect("it is active");
            assert_eq!(queue.is_unfinished(), model.unfinished);
        }
        self.ram.check();
    }

    /// Writes to the configuration space, and compares all of it.
    fn configure(&mut self, offset: usize, bytes: &[u8]) {
        let config = self.input.config();
        config.write(offset, bytes);
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(field) = self.selected.get_mut(at) {
                *field = *byte;
            }
        }
        let property: &[u8] = match self.selected {
            [0x01, 0] => b"Power Button",
            [0x02, 0] => b"power",
            [0x03, 0] => &[6, 0, 0, 0, 0, 0, 0, 0],
            // Bit 116.
            [0x11, 1] => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 << 4],
            _ => &[],
        };
        let [select, subsel] = self.selected;
        let mut expected = vec![select, subsel, property.len() as u8, 0, 0, 0, 0, 0];
        expected.extend(property);
        expected.resize(CONFIG, 0);
        let mut read = vec![0; CONFIG];
        config.read(0, &mut read);
        assert_eq!(read, expected);
    }
}
