//! Our queue against an independent one, of the crate `virtio-queue`: the same random driver works
//! on two memories, and after every step both queues must have returned and written the same.
//!
//! The intended differences have tests of their own: `virtio-queue` 0.18 ignores NO_INTERRUPT in
//! avail.flags, and truncates an invalid chain where ours returns an error.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod support;

use std::sync::Arc;

use devices::memory::Memory;
use devices::transport::interrupt::Interrupt;
use devices::virtio::QueueError;
use devices::virtio::chain::Chain;
use devices::virtio::features;
use devices::virtio::queue::{self, QueueConfig};
use proptest::prelude::*;
use support::Wire;
use virtio_queue::{DescriptorChain, Queue as Oracle, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RAM: u64 = 0x8000_0000;
const RAM_LEN: usize = 0x4_0000;
const TABLE: u64 = RAM + 0x1000;
const DRIVER: u64 = RAM + 0x3000;
const DEVICE: u64 = RAM + 0x4000;
const DEVICE_LEN: usize = 0x1000;
/// One indirect table per head.
const INDIRECT: u64 = RAM + 0x8000;
const INDIRECT_LEN: u64 = 0x100;
const DATA: u64 = RAM + 0x2_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const REFERS: u16 = 4;

/// One buffer: its offset from [`DATA`], and its length.
type Buffer = (u16, u16);

/// A request, split into buffers.
#[derive(Debug, Clone)]
struct Request {
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    /// How many of its descriptors are in the ring's table. The others, if any, are in an indirect
    /// table.
    direct: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// The driver makes a request available, if there are enough descriptors.
    Offer(Request),
    /// The device takes the next chain.
    Pop,
    /// The device uses one of the chains that it holds, in any order.
    Push(usize),
    Notify,
    SuppressKicks,
    AllowKicks,
    /// The driver changes its notification suppression.
    Flags(bool),
    UsedEvent(i16),
}

fn buffers() -> impl Strategy<Value = Vec<Buffer>> {
    prop::collection::vec((0_u16..0x8000, 0_u16..600), 0..4)
}

fn request() -> impl Strategy<Value = Request> {
    let cut = (buffers(), buffers(), 0_usize..8);
    cut.prop_map(|(readable, writable, direct)| Request { readable, writable, direct })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => request().prop_map(Step::Offer),
        6 => Just(Step::Pop),
        5 => (0_usize..8).prop_map(Step::Push),
        4 => Just(Step::Notify),
        1 => Just(Step::SuppressKicks),
        2 => Just(Step::AllowKicks),
        1 => any::<bool>().prop_map(Step::Flags),
        2 => (-3_i16..6).prop_map(Step::UsedEvent),
    ]
}

type Theirs = DescriptorChain<Arc<GuestMemoryMmap>>;

/// Both memories, both queues, and the driver, which writes the same into both.
struct Pair {
    ours: Arc<GuestMemoryMmap>,
    theirs: Arc<GuestMemoryMmap>,
    queue: queue::Queue,
    oracle: Oracle,
    wire: Wire,
    interrupt: Arc<Interrupt>,
    size: u16,
    event_idx: bool,
    /// The driver's records: free descriptors, and the descriptors of each head.
    free: Vec<u16>,
    of_head: Vec<Vec<u16>>,
    available: u16,
    seen: u16,
    flags: u16,
    /// The chains that the device holds.
    taken: Vec<(Chain, Theirs)>,
    /// Chains used since the last notification.
    pushed: u16,
}

fn ram() -> Arc<GuestMemoryMmap> {
    let pattern: Vec<u8> = (0..RAM_LEN).map(|n| (n * 31 + n / 251) as u8).collect();
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_LEN)]).unwrap();
    let data = usize::try_from(DATA - RAM).unwrap();
    ram.write_slice(&pattern[data..], GuestAddress(DATA))
        .unwrap();
    Arc::new(ram)
}

impl Pair {
    /// Queues of `size` entries whose indices start at `start`.
    fn new(size: u16, event_idx: bool, start: u16) -> Pair {
        let (ours, theirs) = (ram(), ram());
        for ram in [&ours, &theirs] {
            for index in [DRIVER + 2, DEVICE + 2] {
                ram.write_obj(start, GuestAddress(index)).unwrap();
            }
        }
        let mut config = QueueConfig::new(size);
        (config.descriptors, config.driver, config.device) = (TABLE, DRIVER, DEVICE);
        config.ready = true;
        config.resume = Some(start);
        let wire = Wire::default();
        let interrupt = Arc::new(Interrupt::new(Box::new(wire.clone())));
        let event = if event_idx {
            features::RING_EVENT_IDX
        } else {
            0
        };
        let accepted = features::VERSION_1 | features::RING_INDIRECT_DESC | event;
        let memory = Memory::new(Arc::clone(&ours));
        let queue = config.activate(&memory, accepted, interrupt.clone());

        let mut oracle = Oracle::new(size).unwrap();
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        oracle.set_desc_table_address(low(TABLE), Some(0));
        oracle.set_avail_ring_address(low(DRIVER), Some(0));
        oracle.set_used_ring_address(low(DEVICE), Some(0));
        oracle.set_event_idx(event_idx);
        oracle.set_next_avail(start);
        oracle.set_next_used(start);
        oracle.set_ready(true);
        assert!(oracle.is_valid(&*theirs));
        Pair {
            ours,
            theirs,
            queue: queue.unwrap(),
            oracle,
            wire,
            interrupt,
            size,
            event_idx,
            free: (0..size).collect(),
            of_head: vec![Vec::new(); usize::from(size)],
            available: start,
            seen: start,
            flags: 0,
            taken: Vec::new(),
            pushed: 0,
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        for ram in [&self.ours, &self.theirs] {
            ram.write_slice(bytes, GuestAddress(address)).unwrap();
        }
    }

    fn descriptor(&self, table: u64, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        let mut bytes = buffer.0.to_le_bytes().to_vec();
        bytes.extend(buffer.1.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.write(DRIVER + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.write(DRIVER + 2, &self.available.to_le_bytes());
    }

    /// Writes a request to free descriptors, if there are enough.
    fn offer(&mut self, request: &Request) {
        let with = |flags| move |&(at, len): &Buffer| (DATA + u64::from(at), u32::from(len), flags);
        let mut buffers: Vec<_> = request.readable.iter().map(with(0)).collect();
        buffers.extend(request.writable.iter().map(with(WRITE)));
        let direct = request.direct.min(buffers.len());
        let indirect = buffers.split_off(direct);
        let entries = buffers.len() + usize::from(!indirect.is_empty());
        if entries == 0 || entries > self.free.len() {
            return;
        }
        let own: Vec<u16> = self.free.drain(..entries).collect();
        let head = own[0];
        if !indirect.is_empty() {
            let table = INDIRECT + INDIRECT_LEN * u64::from(head);
            for (index, &(address, len, flags)) in (0..).zip(&indirect) {
                let next = if usize::from(index) + 1 < indirect.len() {
                    NEXT
                } else {
                    0
                };
                self.descriptor(table, index, (address, len), flags | next, index + 1);
            }
            let len = 16 * u32::try_from(indirect.len()).unwrap();
            // WRITE has no meaning here.
            buffers.push((table, len, REFERS | WRITE));
        }
        for (place, (address, len, flags)) in buffers.into_iter().enumerate() {
            let next = own.get(place + 1).copied();
            let link = next.map_or(0, |_| NEXT);
            self.descriptor(
                TABLE,
                own[place],
                (address, len),
                flags | link,
                next.unwrap_or(0),
            );
        }
        self.of_head[usize::from(head)] = own;
        self.make_available(head);
    }

    /// Both take the next chain, read its readable bytes, and fill its writable bytes.
    fn pop(&mut self) {
        let ours = self.queue.pop().unwrap();
        let theirs = self.oracle.pop_descriptor_chain(Arc::clone(&self.theirs));
        assert_eq!(ours.is_some(), theirs.is_some());
        let Some((mut ours, theirs)) = ours.zip(theirs) else {
            return;
        };
        let mut expected = Vec::new();
        for descriptor in theirs.clone().readable() {
            let mut bytes = vec![0; descriptor.len() as usize];
            self.theirs
                .read_slice(&mut bytes, descriptor.addr())
                .unwrap();
            expected.extend(bytes);
        }
        let mut seen = vec![0; expected.len() + 1];
        assert_eq!(ours.readable().read(&mut seen), expected.len());
        assert_eq!(seen[..expected.len()], expected);

        let room: u64 = theirs
            .clone()
            .writable()
            .map(|it| u64::from(it.len()))
            .sum();
        assert_eq!(ours.writable().len(), room);
        let answer: Vec<u8> = (0..room).map(|n| (n ^ 0x5a) as u8).collect();
        let mut left = &answer[..];
        for descriptor in theirs.clone().writable() {
            let (here, more) = left.split_at(descriptor.len() as usize);
            self.theirs.write_slice(here, descriptor.addr()).unwrap();
            left = more;
        }
        assert_eq!(ours.writable().write(&answer), answer.len());
        self.taken.push((ours, theirs));
    }

    fn push(&mut self, which: usize) {
        if self.taken.is_empty() {
            return;
        }
        let (ours, theirs) = self.taken.remove(which % self.taken.len());
        let written = u32::from(self.pushed) + 7;
        self.queue.push(ours, written);
        let head = theirs.head_index();
        self.oracle.add_used(&*self.theirs, head, written).unwrap();
        self.pushed += 1;
    }

    fn notify(&mut self) {
        let before = self.wire.edges();
        self.queue.notify();
        let interrupted = self.wire.edges() != before;
        self.interrupt.acknowledge(u32::MAX);
        let wanted = self.oracle.needs_notification(&*self.theirs).unwrap();
        if self.event_idx {
            assert_eq!(interrupted, wanted);
        } else {
            // The oracle always returns true here: it ignores the flag, and that nothing was used.
            assert!(wanted);
            assert_eq!(interrupted, self.flags == 0 && self.pushed > 0);
        }
        self.pushed = 0;
        self.compare(DEVICE, DEVICE_LEN);
        self.collect();
    }

    /// The driver collects used chains, and frees their descriptors.
    fn collect(&mut self) {
        let used: u16 = self.ours.read_obj(GuestAddress(DEVICE + 2)).unwrap();
        while self.seen != used {
            let element = DEVICE + 4 + 8 * u64::from(self.seen % self.size);
            let head: u32 = self.ours.read_obj(GuestAddress(element)).unwrap();
            let own = std::mem::take(&mut self.of_head[head as usize]);
            assert!(!own.is_empty(), "head {head} was not out");
            self.free.extend(own);
            self.seen = self.seen.wrapping_add(1);
        }
    }

    fn compare(&self, address: u64, len: usize) {
        let read = |ram: &GuestMemoryMmap| {
            let mut bytes = vec![0; len];
            ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        assert!(
            read(&self.ours) == read(&self.theirs),
            "memory at {address:#x}"
        );
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer(request) => self.offer(request),
            Step::Pop => self.pop(),
            Step::Push(which) => self.push(*which),
            Step::Notify => self.notify(),
            Step::SuppressKicks => {
                self.queue.suppress_kicks();
                self.oracle.disable_notification(&*self.theirs).unwrap();
            }
            Step::AllowKicks => {
                let more = self.queue.allow_kicks();
                let expected = self.oracle.enable_notification(&*self.theirs);
                assert_eq!(more, expected.unwrap());
            }
            Step::Flags(silent) => {
                self.flags = u16::from(*silent);
                self.write(DRIVER, &self.flags.to_le_bytes());
            }
            Step::UsedEvent(ahead) => {
                let event = self.seen.wrapping_add_signed(*ahead);
                let at = DRIVER + 4 + 2 * u64::from(self.size);
                self.write(at, &event.to_le_bytes());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_and_the_oracle_return_and_write_the_same(
        size in prop::sample::select(vec![1_u16, 2, 8, 64]),
        event_idx in any::<bool>(),
        start in prop::sample::select(vec![0_u16, 1, 0x7ffe, 0xfff0, 0xffff]),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(size, event_idx, start);
        for step in &steps {
            pair.step(step);
        }
        while !pair.taken.is_empty() {
            pair.push(0);
        }
        pair.notify();
        pair.compare(RAM, RAM_LEN);
    }
}

/// Invalid rings: our queue's error, and how many descriptors of the chain the oracle returns.
#[test]
fn the_queue_reports_invalid_rings_that_the_oracle_truncates() {
    type Case = (fn(&mut Pair), QueueError, Option<usize>);
    const END: u64 = RAM + RAM_LEN as u64;
    let cases: [Case; 6] = [
        // It follows the loop for as many descriptors as the table has.
        (
            |pair| pair.descriptor(TABLE, 0, (DATA, 1), NEXT, 0),
            QueueError::ChainLength { head: 0, max: 8 },
            Some(8),
        ),
        // The chain ends where the table does.
        (
            |pair| pair.descriptor(TABLE, 0, (DATA, 1), NEXT, 8),
            QueueError::DescriptorIndex { index: 8, size: 8 },
            Some(1),
        ),
        // It finds out that a buffer is not RAM only on access.
        (
            |pair| pair.descriptor(TABLE, 0, (END - 1, 2), 0, 0),
            QueueError::Buffer { address: END - 1, len: 2 },
            Some(1),
        ),
        // It does not check the order.
        (
            |pair| {
                pair.descriptor(TABLE, 0, (DATA, 1), NEXT | WRITE, 1);
                pair.descriptor(TABLE, 1, (DATA, 1), 0, 0);
            },
            QueueError::Order { head: 0 },
            Some(2),
        ),
        // An invalid table is an empty chain.
        (
            |pair| pair.descriptor(TABLE, 0, (INDIRECT, 24), REFERS, 0),
            QueueError::Indirect {
                flags: REFERS,
                len: 24,
                why: "not a whole number of descriptors",
            },
            Some(0),
        ),
        // Both check the index.
        (
            |pair| pair.available = 8,
            QueueError::AvailableIndex { idx: 9, next: 0, size: 8 },
            None,
        ),
    ];
    for (build, broken, descriptors) in cases {
        let mut pair = Pair::new(8, false, 0);
        build(&mut pair);
        pair.make_available(0);
        assert_eq!(pair.queue.pop().err(), Some(broken));
        let theirs = pair.oracle.pop_descriptor_chain(Arc::clone(&pair.theirs));
        assert_eq!(theirs.map(Iterator::count), descriptors);
    }
}
