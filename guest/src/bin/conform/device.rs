//! One device under test: its registers, its rings written by hand, and its buffers.

use core::fmt;
use core::ops::Range;

use guest::bare::Ring;
use guest::fdt::Slot;
use guest::mmio::offset;
use guest::tap::Failure;
use guest::timer;
use guest::virtio::{device, status};
use guest::{Dma, Error, MmioRegisters, Region, Registers, Transport, ensure};

/// Longest time for a device to answer, in microseconds: it may be emulated twice, on a busy
/// machine.
const TIMEOUT: u64 = 5_000_000;
/// How long to watch for an event that must not happen, in microseconds.
const QUIET: u64 = 10_000;
/// How long a device may take to react to a hostile ring, in microseconds.
const SETTLING: u64 = 200_000;
/// How long to poll without a pause, in microseconds.
const SPIN: u64 = 300;
/// Microseconds of a pause.
const PAUSE: u64 = 200;

/// Entries of the rings, if the device has as many.
const RING_SIZE: u16 = 64;
/// The largest ring that fits the memory.
pub(crate) const RING_MAX: u16 = 1024;
/// Bytes of the buffers.
pub(crate) const MEMORY: usize = 256 << 10;
/// Bytes of the buffers of one plain request: header at 0, status byte at 16, data from 512 on.
pub(crate) const UNIT: usize = 1024;
/// Offset of the status byte in a unit.
pub(crate) const STATUS: usize = 16;
/// Offset of the data in a unit.
pub(crate) const DATA: usize = 512;
/// Bytes of the buffers that are set to [`BLANK`] at the start of a device.
pub(crate) const BLANKED: usize = 16 * UNIT;
/// Their value then, to detect writes of the device.
pub(crate) const BLANK: u8 = 0xa5;
/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A disk that may be overwritten.
    Disk,
    /// A disk that offers RO.
    ReadOnly,
    Console,
    Entropy,
    /// A card of a network where 192.0.2.1 or 10.0.2.2 answers ARP, or nobody.
    Network,
    /// A socket device whose host sends back what it receives on port 52, or refuses that port.
    Socket,
    Balloon,
}

impl Kind {
    pub(crate) fn of(transport: &Transport<MmioRegisters>) -> Option<Self> {
        match transport.device_id() {
            device::BLOCK if is_read_only(transport) => Some(Kind::ReadOnly),
            device::BLOCK => Some(Kind::Disk),
            device::CONSOLE => Some(Kind::Console),
            device::ENTROPY => Some(Kind::Entropy),
            device::NETWORK => Some(Kind::Network),
            device::SOCKET => Some(Kind::Socket),
            device::BALLOON => Some(Kind::Balloon),
            _ => None,
        }
    }

    /// Whether it always has two queues, and plain requests are in the second: transmit, deflate.
    pub(crate) fn transmits(self) -> bool {
        !matches!(self, Kind::Disk | Kind::ReadOnly | Kind::Entropy)
    }
}

/// Whether a block device offers RO (§ 5.2.3).
pub(crate) fn is_read_only(transport: &Transport<MmioRegisters>) -> bool {
    transport.offered() & guest::block::features::RO != 0
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Kind::Disk => "disk",
            Kind::ReadOnly => "read-only disk",
            Kind::Console => "console",
            Kind::Entropy => "rng",
            Kind::Network => "network card",
            Kind::Socket => "socket device",
            Kind::Balloon => "balloon",
        })
    }
}

/// How a device reacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nothing was tried, or there is nothing to wait for.
    Nothing,
    /// It used this many buffers.
    Answered(u16),
    /// DEVICE_NEEDS_RESET.
    NeedsReset,
    /// It does not react.
    Silence,
}

impl fmt::Display for Met {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Met::Nothing => formatter.write_str("no answer due"),
            Met::Answered(count) => write!(formatter, "answered {count}"),
            Met::NeedsReset => formatter.write_str("needs a reset"),
            Met::Silence => formatter.write_str("does not answer"),
        }
    }
}

/// A device under test.
pub(crate) struct Device {
    pub(crate) kind: Kind,
    pub(crate) slot: Slot,
    /// First address and bytes of the machine's memory.
    pub(crate) ram: (u64, u64),
    pub(crate) registers: MmioRegisters,
    pub(crate) transport: Transport<MmioRegisters>,
    /// One per queue that a driver sets up: two for a kind that transmits.
    pub(crate) rings: [Ring; 2],
    /// The memory of the rings.
    pub(crate) ring_memory: [Region; 2],
    /// Buffers.
    pub(crate) memory: Region,
    /// Sectors that the test may have written, to be restored.
    pub(crate) touched: Range<u64>,
    /// How the device reacted to the last hostile case.
    pub(crate) met: Met,
    /// Microseconds of the slowest act of a case with very many, which may take long in all.
    pub(crate) slowest: Option<u64>,
    /// The test after which it could not be restored.
    pub(crate) lost: Option<u32>,
    /// Used entries that were read.
    seen: u16,
}

impl Device {
    pub(crate) fn new(
        kind: Kind,
        slot: Slot,
        ram: (u64, u64),
        transport: Transport<MmioRegisters>,
        dma: &mut Dma,
    ) -> Result<Self, Error> {
        let registers = *transport.registers();
        let ring_memory = [
            dma.alloc(Ring::bytes(RING_MAX))?,
            dma.alloc(Ring::bytes(RING_MAX))?,
        ];
        registers.write(offset::QUEUE_SEL, 0);
        let max = registers.read(offset::QUEUE_SIZE_MAX);
        let size = u16::try_from(max).unwrap_or(RING_MAX).clamp(4, RING_SIZE);
        let rings = ring_memory.each_ref().map(|it| Ring::new(it, size));
        Ok(Self {
            kind,
            slot,
            ram,
            registers,
            transport,
            rings,
            ring_memory,
            memory: dma.alloc(MEMORY)?,
            touched: 0..0,
            met: Met::Nothing,
            slowest: None,
            lost: None,
            seen: 0,
        })
    }

    /// Queues that a driver sets up for this kind of device.
    pub(crate) fn queues(&self) -> u16 {
        1 + u16::from(self.kind.transmits())
    }

    /// The queue of plain requests.
    pub(crate) fn queue(&self) -> u16 {
        self.queues() - 1
    }

    /// The ring of that queue.
    pub(crate) fn ring(&self) -> &Ring {
        let [first, second] = &self.rings;
        if self.kind.transmits() { second } else { first }
    }

    /// Status, as it reads.
    pub(crate) fn status(&self) -> u32 {
        self.registers.read(offset::STATUS)
    }

    /// Resets the device and waits until Status reads 0 (§2.4).
    pub(crate) fn reset(&self) -> Result<(), Failure> {
        self.registers.write(offset::STATUS, 0);
        ensure!(
            until(TIMEOUT, || self.status() == 0),
            "status {:#x} after a reset, not 0",
            self.status()
        );
        Ok(())
    }

    /// The first half of a start: reset, features (VERSION_1 and those of `wanted` that are
    /// offered), FEATURES_OK.
    pub(crate) fn negotiate(&mut self, wanted: u64) -> Result<u64, Failure> {
        self.reset()?;
        Ok(self.transport.negotiate(wanted)?)
    }

    /// A start without DRIVER_OK, with fresh rings.
    pub(crate) fn prepare(&mut self, wanted: u64) -> Result<u64, Failure> {
        let features = self.negotiate(wanted)?;
        self.memory.slice(0..BLANKED).fill(BLANK);
        for (index, ring) in (0..self.queues()).zip(&self.rings) {
            ring.clear();
            ring.attach(&self.registers, index);
        }
        self.seen = 0;
        Ok(features)
    }

    /// A start: the device is live, with fresh rings.
    pub(crate) fn live(&mut self, wanted: u64) -> Result<u64, Failure> {
        let features = self.prepare(wanted)?;
        self.transport.start();
        self.transport.alive()?;
        Ok(features)
    }

    /// As [`live`](Self::live) with rings of this size from now on.
    pub(crate) fn live_with(&mut self, size: u16) -> Result<(), Failure> {
        self.replace_rings(size);
        self.live(0).map(|_| ())
    }

    /// New, empty rings, which are not set up in the device yet.
    pub(crate) fn replace_rings(&mut self, size: u16) {
        self.rings = self.ring_memory.each_ref().map(|it| Ring::new(it, size));
        self.seen = 0;
    }

    /// The size of the rings that most tests use.
    pub(crate) fn usual_size(&self) -> u16 {
        self.registers.write(offset::QUEUE_SEL, 0);
        let max = self.registers.read(offset::QUEUE_SIZE_MAX);
        u16::try_from(max).unwrap_or(RING_MAX).clamp(4, RING_SIZE)
    }

    /// Kicks a queue (§4.2.3.3).
    pub(crate) fn kick(&self, queue: u16) {
        self.registers.write(offset::QUEUE_NOTIFY, queue.into());
    }

    /// Makes chains available in the plain requests' queue, and kicks.
    pub(crate) fn offer(&self, heads: &[u16]) {
        self.ring().offer(heads);
        self.kick(self.queue());
    }

    /// Waits for the next used entry of that queue: `id` and `len`.
    pub(crate) fn answer(&mut self) -> Result<(u32, u32), Failure> {
        let (ring, seen) = (self.ring(), self.seen);
        let moved = until(TIMEOUT, || ring.used() != seen || self.is_broken());
        ensure!(moved, "no answer within {} s", TIMEOUT / 1_000_000);
        ensure!(
            ring.used() != seen,
            "no answer, but status {:#x}",
            self.status()
        );
        let element = ring.element(seen);
        self.seen = seen.wrapping_add(1);
        Ok(element)
    }

    /// Whether there are used entries that [`answer`](Self::answer) has not returned yet.
    pub(crate) fn has_answers(&self) -> bool {
        self.ring().used() != self.seen
    }

    /// Checks for a while that the device uses no buffer.
    pub(crate) fn stays_quiet(&self) -> Result<(), Failure> {
        ensure!(
            !until(QUIET, || self.has_answers()),
            "used.idx moved from {} to {}",
            self.seen,
            self.ring().used()
        );
        Ok(())
    }

    /// Waits for the device's reaction to a hostile ring, and stores it in `met`.
    pub(crate) fn settle(&mut self) -> Met {
        let (ring, seen) = (self.ring(), self.seen);
        until(SETTLING, || ring.used() != seen || self.is_broken());
        let used = ring.used().wrapping_sub(seen);
        self.met = match (self.is_broken(), used) {
            (true, _) => Met::NeedsReset,
            (false, 0) => Met::Silence,
            (false, count) => Met::Answered(count),
        };
        self.met
    }

    /// DEVICE_NEEDS_RESET (§2.1).
    pub(crate) fn is_broken(&self) -> bool {
        self.status() & status::DEVICE_NEEDS_RESET != 0
    }

    /// The bus address of `offset` in the buffers.
    pub(crate) fn at(&self, offset: usize) -> u64 {
        self.memory.bus() + offset as u64
    }

    /// A byte of the buffers.
    pub(crate) fn byte(&self, offset: usize) -> u8 {
        let mut byte = [0];
        self.memory.read(offset, &mut byte);
        let [byte] = byte;
        byte
    }

    /// Whether this part of the buffers is unchanged since [`prepare`](Self::prepare).
    pub(crate) fn is_blank(&self, mut range: Range<usize>) -> bool {
        range.all(|offset| self.byte(offset) == BLANK)
    }

    /// InterruptStatus.
    pub(crate) fn interrupts(&self) -> u32 {
        self.registers.read(offset::INTERRUPT_STATUS)
    }

    /// InterruptACK.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.registers.write(offset::INTERRUPT_ACK, bits);
    }
}

/// Waits for `done`, at most this many microseconds: at first without a pause, since most answers
/// come at once.
///
/// It polls the clock and never sleeps: only an interrupt would wake it, and interrupts are under
/// test.
pub(crate) fn until(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let begin = timer::now();
    let end = begin + timer::ticks(microseconds);
    let spin = begin + timer::ticks(SPIN);
    loop {
        if done() {
            return true;
        }
        let now = timer::now();
        if now >= end {
            return false;
        }
        if now > spin {
            let pause = now + timer::ticks(PAUSE);
            while timer::now() < pause {
                core::hint::spin_loop();
            }
        }
    }
}
