//! Compares the split queue and its chains with the [`model`](crate::model), step by step.

use std::os::fd::AsFd;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::irq::IrqLine;
use devices::transport::interrupt::Interrupt;
use devices::virtio::Queues;
use devices::virtio::queue::{Queue, QueueConfig};

use crate::driver::{Driver, Layout, Shape, few};
use crate::file::memory_file;
use crate::model::{self, Model};
use crate::ram::{BASE, LEN, Ram};

const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;

/// A chain may name the same memory a thousand times; a file gets at most this many bytes of it.
const MUCH: u64 = 1 << 18;

/// The steps of a guest with a queue, and of its device.
#[derive(Debug, Arbitrary)]
pub struct Case {
    layout: Layout,
    event_idx: bool,
    indirect: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Offer {
        #[arbitrary(with = few)]
        readable: Vec<u8>,
        #[arbitrary(with = few)]
        writable: Vec<u8>,
        shape: Shape,
    },
    Wish(u16, u16),
    /// The guest writes anything, anywhere.
    Write(u32, [u8; 4]),
    Pop,
    /// The device reads or writes a chain that it took.
    Use(Use),
    /// It returns an earlier chain, and claims to have written this many bytes.
    Push(u8, u32),
    Notify,
    Suppress,
    Allow,
    /// It serves the available chains in this way, and stops after this many.
    Drain(#[arbitrary(with = few)] Vec<Use>, u8),
}

/// An operation of a device on a chain.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Use {
    Take,
    Read(u8),
    Write(u8),
    SplitLast,
    PutLast(u8),
    FromFile(u8),
    ToFile(u8),
}

/// An unconnected wire: InterruptStatus is enough.
pub struct Nowhere;

impl IrqLine for Nowhere {
    fn set(&self, _: bool) {}
}

/// Runs a case. Panics if the queue and the model differ.
pub fn run(case: &Case) {
    let mut ram = Ram::new();
    // All memory outside the rings has a content, so that a lost byte is noticed.
    ram.write(BASE + 0x8000, &[0xa5; LEN as usize - 0x8000]);
    let rings = case.layout.rings(0);
    let interrupt = Arc::new(Interrupt::new(Box::new(Nowhere)));
    let features =
        if case.event_idx { EVENT_IDX } else { 0 } | if case.indirect { INDIRECT } else { 0 };
    let queue = activate(&ram, rings, 256, features, &interrupt);
    assert_eq!(queue.is_some(), rings.are_usable(256), "{rings:x?}");
    let Some(queue) = queue else { return };
    let model = Model::new(rings, case.event_idx, case.indirect);
    let mut pair = Pair { queue, model, interrupt, taken: Vec::new() };
    let mut driver = Driver::new(rings);
    for step in &case.steps {
        match step {
            Step::Offer { readable, writable, shape } => {
                let pieces: Vec<Vec<u8>> = readable
                    .iter()
                    .map(|len| vec![*len; (*len).into()])
                    .collect();
                let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
                let writable: Vec<u32> = writable.iter().map(|len| (*len).into()).collect();
                driver.offer(&mut ram, &pieces, &writable, shape);
            }
            Step::Wish(flags, event) => driver.wish(&mut ram, *flags, *event),
            Step::Write(offset, bytes) => ram.write(BASE + u64::from(*offset % 0x4000), bytes),
            step => {
                if pair.step(&mut ram, step).is_err() {
                    break;
                }
                ram.check();
            }
        }
    }
    ram.check();
}

/// The queue of these rings, if they are valid.
pub fn activate(
    ram: &Ram,
    rings: model::Rings,
    max: u16,
    features: u64,
    interrupt: &Arc<Interrupt>,
) -> Option<Queue> {
    let mut config = QueueConfig::new(max);
    config.size = rings.size;
    config.descriptors = rings.table;
    config.driver = rings.driver;
    config.device = rings.device;
    config.ready = true;
    config
        .activate(&ram.memory(), features, interrupt.clone())
        .ok()
}

/// What a driver sets up on a device with two queues.
#[derive(Debug, Default, Arbitrary)]
pub struct SetUp {
    declined: u64,
    layouts: [Layout; 2],
}

/// A device's queues after a set-up, beside their models.
pub struct Started {
    /// The features that the driver accepted.
    pub features: u64,
    /// The queues whose rings are valid.
    pub queues: Queues,
    /// The models of the same queues.
    pub models: [Option<Model>; 2],
    /// The driver's state for each queue.
    pub drivers: Vec<Driver>,
}

impl SetUp {
    /// The set-up of a device that offers these features beside those of queues, after its reset.
    /// Memory outside the rings has a content, so that a lost byte is noticed.
    pub fn start(
        &self,
        ram: &mut Ram,
        offered: u64,
        max: u16,
        interrupt: &Arc<Interrupt>,
    ) -> Started {
        self.start_at([0, 1], ram, offered, max, interrupt)
    }

    /// The same, with the two queues at these places among the device's.
    pub fn start_at(
        &self,
        places: [usize; 2],
        ram: &mut Ram,
        offered: u64,
        max: u16,
        interrupt: &Arc<Interrupt>,
    ) -> Started {
        ram.write(BASE, &[0; 0x8000]);
        ram.write(BASE + 0x8000, &[0xa5; LEN as usize - 0x8000]);
        let features = (offered | INDIRECT | EVENT_IDX) & !self.declined;
        let accepted = |bit| features & bit != 0;
        let rings = [0, 1].map(|index| self.layouts[index].rings(index as u64));
        let queues = rings.map(|rings| activate(ram, rings, max, features, interrupt));
        let model = |index: usize| {
            let model = || Model::new(rings[index], accepted(EVENT_IDX), accepted(INDIRECT));
            queues[index].is_some().then(model)
        };
        let models = [model(0), model(1)];
        let mut all: Vec<Option<Queue>> = (0..=places[1]).map(|_| None).collect();
        for (place, queue) in places.into_iter().zip(queues) {
            all[place] = queue;
        }
        Started {
            features,
            models,
            drivers: rings.map(Driver::new).into(),
            queues: Queues::new(all),
        }
    }
}

/// Both queues, and the chains taken from them.
struct Pair {
    queue: Queue,
    model: Model,
    interrupt: Arc<Interrupt>,
    taken: Vec<(devices::virtio::chain::Chain, model::Chain)>,
}

impl Pair {
    /// Performs the device's step in both. An error is a broken ring, and ends the case.
    fn step(&mut self, ram: &mut Ram, step: &Step) -> Result<(), model::QueueError> {
        match step {
            Step::Pop => self.pop(ram)?,
            Step::Use(how) => {
                if let Some((chain, model)) = self.taken.last_mut() {
                    apply(*how, ram, chain, model);
                }
            }
            Step::Push(back, written) => {
                let count = self.taken.len();
                if let Some(at) = usize::from(*back).checked_rem(count) {
                    let (chain, model) = self.taken.swap_remove(at);
                    self.queue.push(chain, *written);
                    self.model.push(ram, model.head, *written);
                }
            }
            Step::Notify => {
                self.queue.notify();
                self.model.notify(ram);
            }
            Step::Suppress => {
                self.queue.suppress_kicks();
                self.model.suppress_kicks(ram);
            }
            Step::Allow => {
                let more = self.queue.allow_kicks();
                assert_eq!(more, self.model.allow_kicks(ram));
            }
            Step::Drain(uses, limit) => self.drain(ram, uses, *limit)?,
            Step::Offer { .. } | Step::Wish(..) | Step::Write(..) => {}
        }
        let wanted = std::mem::take(&mut self.model.interrupts);
        assert_eq!(self.interrupt.status(), u32::from(wanted > 0));
        self.interrupt.acknowledge(u32::MAX);
        Ok(())
    }

    fn pop(&mut self, ram: &Ram) -> Result<(), model::QueueError> {
        // The device returns what it takes: a queue has at most as many chains in use as
        // descriptors.
        if self.taken.len() >= self.queue.size().into() {
            return Ok(());
        }
        match (self.queue.pop(), self.model.pop(ram)) {
            (Ok(Some(chain)), Ok(Some(model))) => self.taken.push((chain, model)),
            (Ok(None), Ok(None)) => {}
            (Err(_), Err(broken)) => return Err(broken),
            (queue, model) => panic!(
                "{:?}, the model: {model:?}",
                queue.map(|chain| chain.is_some())
            ),
        }
        Ok(())
    }

    fn drain(&mut self, ram: &mut Ram, uses: &[Use], limit: u8) -> Result<(), model::QueueError> {
        // First the queue, and record its results; then the model must have the same ones.
        let mut seen = Vec::new();
        let (mut left, file) = (limit, memory_file());
        let queue = self.queue.drain(|chain| {
            left = left.checked_sub(1)?;
            let lens = (chain.readable().len(), chain.writable().len());
            let gave: Vec<_> = uses
                .iter()
                .map(|how| on_queue(*how, chain, &file))
                .collect();
            seen.push((lens, gave));
            Some(u32::from(left))
        });
        let (mut left, mut seen) = (limit, seen.into_iter());
        let model = self.model.drain(ram, |ram, chain| {
            left = left.checked_sub(1)?;
            let (lens, gave) = seen.next().expect("as many chains");
            assert_eq!(lens, (chain.readable.len(), chain.writable.len()));
            for (how, gave) in uses.iter().zip(gave) {
                assert_eq!(gave, on_model(*how, ram, chain), "{how:?}");
            }
            Some(u32::from(left))
        });
        assert_eq!(seen.count(), 0, "more chains than the model has");
        assert_eq!(queue.is_err(), model.is_err(), "{queue:?}");
        model?;
        assert_eq!(self.queue.is_unfinished(), self.model.unfinished);
        Ok(())
    }
}

fn apply(
    how: Use,
    ram: &mut Ram,
    chain: &mut devices::virtio::chain::Chain,
    model: &mut model::Chain,
) {
    let gave = on_queue(how, chain, &memory_file());
    assert_eq!(gave, on_model(how, ram, model), "{how:?}");
    assert_eq!(chain.readable().len(), model.readable.len());
    assert_eq!(chain.writable().len(), model.writable.len());
}

/// The endless content of a file, from `from` on.
fn content(from: u8, len: u64) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_add(from)).collect()
}

/// The result as bytes: those read, or the number of those that fit.
fn on_queue(how: Use, chain: &mut devices::virtio::chain::Chain, file: &std::fs::File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    match how {
        Use::Take => chain.readable().take::<16>().map_or(Vec::new(), Vec::from),
        Use::Read(len) => {
            let mut bytes = vec![0; len.into()];
            let count = chain.readable().read(&mut bytes);
            bytes.truncate(count);
            bytes
        }
        Use::Write(len) => {
            let room = chain.writable().write(&content(len, len.into()));
            room.to_le_bytes().to_vec()
        }
        Use::SplitLast => vec![chain.writable().split_last().into()],
        Use::PutLast(value) => {
            chain.writable().put_last(value);
            Vec::new()
        }
        Use::FromFile(_) if chain.writable().len() > MUCH => Vec::new(),
        Use::ToFile(_) if chain.readable().len() > MUCH => Vec::new(),
        Use::FromFile(from) => {
            let len = chain.writable().len();
            file.write_all_at(&content(from, len), from.into())
                .expect("memory");
            let filled = chain.writable().read_exact_at(file.as_fd(), from.into());
            vec![filled.is_ok().into()]
        }
        Use::ToFile(at) => {
            let len = chain.readable().len();
            let written = chain.readable().write_all_at(file.as_fd(), at.into(), None);
            written.expect("memory");
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, at.into()).expect("memory");
            bytes
        }
    }
}

fn on_model(how: Use, ram: &mut Ram, chain: &mut model::Chain) -> Vec<u8> {
    match how {
        Use::Take if chain.readable.len() < 16 => Vec::new(),
        Use::Take => chain.readable.read(ram, 16),
        Use::Read(len) => chain.readable.read(ram, len.into()),
        Use::Write(len) => {
            let room = chain.writable.write(ram, &content(len, len.into()));
            room.to_le_bytes().to_vec()
        }
        Use::SplitLast => vec![chain.writable.split_last().into()],
        Use::PutLast(value) => {
            if let Some(last) = chain.writable.last() {
                ram.put(last, &[value]);
            }
            Vec::new()
        }
        Use::FromFile(_) if chain.writable.len() > MUCH => Vec::new(),
        Use::ToFile(_) if chain.readable.len() > MUCH => Vec::new(),
        Use::FromFile(from) => {
            let len = chain.writable.len();
            chain.writable.write(ram, &content(from, len));
            vec![1]
        }
        Use::ToFile(_) => {
            let len = chain.readable.len();
            chain.readable.read(ram, len)
        }
    }
}
