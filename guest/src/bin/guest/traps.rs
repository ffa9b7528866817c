//! Mode `bench traps`: moves the same bytes in several ways, from one trap per byte to a batch of
//! requests.
//!
//! For the requests of a disk it also prints latencies: `# latency NAME: p50 31.2, p90 40.0, p99
//! 55.1, max 80.3 us of 320 requests`, which `hartvisor compare` reads.
//!
//! Only the host can count exits: `hartvisor run --stats`, or `make traps`, which runs one way at a
//! time (`method=NAME`) and subtracts a run without rounds (`rounds=0`).

use core::fmt;

use guest::block::{Request, SECTOR, Status};
use guest::boot::{Boot, Outcome};
use guest::fdt::{self, Board};
use guest::latency::Latencies;
use guest::sbi::{self, Output};
use guest::tap::{Failure, Point, Tap, Verdict};
use guest::timer::{self, Deadline};
use guest::virtio::{device, feature};
use guest::{
    Block, Console, Dma, MmioRegisters, Region, Registers, Segment, Transport, console, ensure,
    irq, mmio,
};

/// Bytes that are sent to a console.
const TEXT: [u8; 4096] = text();
/// Bytes of a line.
const LINE: usize = 64;
/// Bytes of a block, and the number of blocks read.
const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
/// Requests of a batch.
const BATCH: usize = 16;
/// Longest time for one answer, in microseconds.
const TIMEOUT: u64 = 10_000_000;

/// Lines of dots.
#[expect(clippy::indexing_slicing, reason = "when this is compiled")]
const fn text() -> [u8; 4096] {
    let mut text = [b'.'; 4096];
    let mut at = LINE - 1;
    while at < text.len() {
        text[at] = b'\n';
        at += LINE;
    }
    text
}

/// How bytes are moved.
#[derive(Clone, Copy)]
enum Way {
    /// To the transmit register of the serial port.
    Uart,
    /// By the legacy call of the firmware, one byte each.
    Putchar,
    /// By the debug console extension, one byte each.
    DbcnByte,
    /// By the same, in one call.
    Dbcn,
    /// On the virtio console, with this many bytes per kick.
    Console(usize),
    /// From a disk with these ring features, with this many blocks per kick.
    Disk(u64, usize),
}

/// A way, and its name for `method=`.
type Method = (&'static str, Way);

const METHODS: [Method; 15] = {
    const INDIRECT: u64 = feature::INDIRECT_DESC;
    const EVENT: u64 = feature::EVENT_IDX;
    const ALL: usize = TEXT.len();
    [
        ("uart", Way::Uart),
        ("putchar", Way::Putchar),
        ("dbcn-byte", Way::DbcnByte),
        ("dbcn", Way::Dbcn),
        ("console-byte", Way::Console(1)),
        ("console-line", Way::Console(LINE)),
        ("console-batch", Way::Console(ALL)),
        ("disk", Way::Disk(0, 1)),
        ("disk-indirect", Way::Disk(INDIRECT, 1)),
        ("disk-event", Way::Disk(EVENT, 1)),
        ("disk-both", Way::Disk(INDIRECT | EVENT, 1)),
        ("disk-batch", Way::Disk(0, BATCH)),
        ("disk-indirect-batch", Way::Disk(INDIRECT, BATCH)),
        ("disk-event-batch", Way::Disk(EVENT, BATCH)),
        ("disk-both-batch", Way::Disk(INDIRECT | EVENT, BATCH)),
    ]
};

/// Number of rounds of each way, by default (see `rounds=`) and at most.
const ROUNDS: usize = 5;
const ROUNDS_MAX: usize = 32;

/// Runs the methods that the boot arguments select: all, or one.
pub(crate) fn run(board: &Board<'_>, boot: Boot) -> Outcome {
    timer::start(board);
    board.controller.map(irq::start);
    let setting = |name: &str| {
        let settings = board.bootargs.split_whitespace();
        settings
            .filter_map(|word| word.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    };
    let wanted = setting("method");
    let rounds = setting("rounds").and_then(|rounds| rounds.parse().ok());
    let asked = |method: &&Method| wanted.is_none_or(|wanted| wanted == method.0);
    let count = METHODS.iter().filter(asked).count();
    let mut tap = Tap::new(Output, u32::try_from(count).unwrap_or(0));
    let mut machine = Machine {
        uart: fdt::uart(boot.fdt).map(|base| MmioRegisters::physical(base, UART_LEN)),
        board,
        dma: boot.dma,
        rounds: rounds.unwrap_or(ROUNDS).min(ROUNDS_MAX),
        latencies: Latencies::default(),
    };
    for (name, way) in METHODS.iter().filter(asked) {
        let mut spent = None;
        let verdict = machine.measure(*way, &mut spent);
        tap.point(name, verdict);
        if let Some(ticks) = spent {
            let (bytes, us) = (way.bytes(), timer::microseconds(ticks));
            let each = us * 1000 / bytes as u64;
            tap.comment(format_args!(
                "traps: {name} {bytes} bytes, {us} us, {each} ns per byte"
            ));
        }
        if let Some(taken) = machine.latencies.percentiles() {
            let us = |ticks: u32| Micros(timer::microseconds(u64::from(ticks) * 10));
            tap.comment(format_args!(
                "latency {name}: p50 {}, p90 {}, p99 {}, max {} us of {} requests",
                us(taken.p50),
                us(taken.p90),
                us(taken.p99),
                us(taken.max),
                taken.count
            ));
        }
    }
    match tap.finish() {
        true => Outcome::Passed,
        false => Outcome::Failed,
    }
}

/// Tenths of a microsecond.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

impl Way {
    /// Bytes of a round.
    const fn bytes(self) -> usize {
        match self {
            Way::Disk(..) => BLOCKS * BLOCK,
            _ => TEXT.len(),
        }
    }
}

/// Registers of a 16550 at single bytes.
const UART_LEN: usize = 8;
const THR: usize = 0;
const LSR: usize = 5;
/// LSR: the transmitter accepts another FIFO of bytes.
const THR_EMPTY: u8 = 1 << 5;
const FIFO: usize = 16;

struct Machine<'a> {
    uart: Option<MmioRegisters>,
    board: &'a Board<'a>,
    dma: Dma,
    rounds: usize,
    /// Latencies of the disk's requests in the last way measured.
    latencies: Latencies<{ ROUNDS_MAX * BLOCKS }>,
}

impl Machine<'_> {
    /// Moves the bytes this many rounds, and returns the ticks of the median round.
    fn measure(&mut self, way: Way, spent: &mut Option<u64>) -> Verdict {
        self.latencies.clear();
        let rounds = self.rounds;
        *spent = match way {
            Way::Uart => {
                let Some(uart) = self.uart else {
                    return Ok(Point::Skip("no serial port"));
                };
                timed(rounds, || transmit(&uart))?
            }
            Way::Putchar => {
                if !sbi::put_legacy(b'\n') {
                    return Ok(Point::Skip("the firmware has no legacy console"));
                }
                timed(rounds, || call(sbi::put_legacy))?
            }
            Way::DbcnByte => timed(rounds, || call(sbi::put_byte))?,
            Way::Dbcn => timed(rounds, || {
                sbi::put(&TEXT);
                Ok(())
            })?,
            Way::Console(each) => {
                let Some(transport) = self.find(device::CONSOLE)? else {
                    return Ok(Point::Skip("no console"));
                };
                let mut console = Console::new(transport, &mut self.dma, console::WANTED)?;
                timed(rounds, || {
                    let mut chunks = TEXT.chunks(each);
                    chunks.try_for_each(|it| console.send(it, &mut Deadline::after(TIMEOUT)))?;
                    Ok(())
                })?
            }
            Way::Disk(ring, batch) => {
                let Some(transport) = self.find(device::BLOCK)? else {
                    return Ok(Point::Skip("no disk"));
                };
                let data = self.dma.alloc(BATCH * BLOCK)?;
                let mut disk = Block::new(transport, &mut self.dma, ring, 64)?;
                let capacity = disk.capacity();
                ensure!(
                    capacity >= (BLOCKS * BLOCK / SECTOR) as u64,
                    "the disk has only {capacity} sectors"
                );
                let latencies = &mut self.latencies;
                timed(rounds, || read(&mut disk, &data, batch, latencies))?
            }
        };
        Ok(Point::Pass)
    }

    /// The first device of this kind, after a reset.
    fn find(&self, id: u32) -> Result<Option<Transport<MmioRegisters>>, Failure> {
        for slot in self.board.slots() {
            if let Some(mut transport) =
                Transport::probe(MmioRegisters::physical(slot.base, mmio::LEN))?
                && transport.device_id() == id
            {
                transport.reset()?;
                irq::watch(slot);
                return Ok(Some(transport));
            }
        }
        Ok(None)
    }
}

/// The ticks of the median of this many rounds; `None` without any.
fn timed(
    rounds: usize,
    mut round: impl FnMut() -> Result<(), Failure>,
) -> Result<Option<u64>, Failure> {
    let mut ticks = [0; ROUNDS_MAX];
    for ticks in ticks.iter_mut().take(rounds) {
        let begin = timer::now();
        round()?;
        *ticks = timer::now() - begin;
    }
    let ticks = ticks.get_mut(..rounds).unwrap_or_default();
    ticks.sort_unstable();
    Ok(ticks.get(rounds / 2).copied())
}

/// One call per byte.
fn call(put: fn(u8) -> bool) -> Result<(), Failure> {
    let taken = TEXT.iter().filter(|byte| put(**byte)).count();
    ensure!(taken == TEXT.len(), "{taken} of {} bytes taken", TEXT.len());
    Ok(())
}

/// One store per byte, and one load of the state per FIFO.
fn transmit(uart: &MmioRegisters) -> Result<(), Failure> {
    let end = timer::now() + timer::ticks(TIMEOUT);
    for fifo in TEXT.chunks(FIFO) {
        while uart.read_u8(LSR) & THR_EMPTY == 0 {
            ensure!(timer::now() < end, "the transmitter takes no more");
        }
        for byte in fifo {
            uart.write_u8(THR, *byte);
        }
    }
    Ok(())
}

/// Reads all blocks, `batch` per kick.
fn read<const N: usize>(
    disk: &mut Block<MmioRegisters>,
    data: &Region,
    batch: usize,
    latencies: &mut Latencies<N>,
) -> Result<(), Failure> {
    for first in (0..BLOCKS).step_by(batch) {
        let mut tokens = [const { None }; BATCH];
        for (n, token) in tokens.iter_mut().enumerate().take(batch) {
            let sector = (first + n) * BLOCK / SECTOR;
            let into = data.slice(n * BLOCK..(n + 1) * BLOCK);
            let request = Request::read(sector as u64);
            let begin = timer::now();
            *token = Some((begin, disk.submit(request, &[Segment::writable(&into)])?));
        }
        for (begin, token) in tokens.into_iter().flatten() {
            let done = disk.finish(token, &mut Deadline::after(TIMEOUT))?;
            latencies.note(timer::now() - begin);
            ensure!(
                done.status == Status::Ok,
                "a read ended with {:?}",
                done.status
            );
        }
    }
    Ok(())
}
