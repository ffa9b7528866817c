//! Mode `test`: tests the machine and its devices, with one TAP point per property.

mod block;
mod console;
mod features;
mod interrupt;
mod machine;
pub(crate) mod net;
mod smp;
mod vsock;

use dtoolkit::fdt::Fdt;
use guest::boot::{Boot, Outcome};
use guest::fdt::{Board, Slot};
use guest::sbi::Output;
use guest::tap::Tap;
use guest::timer::Deadline;
use guest::virtio::device;
use guest::{Dma, Error, MmioRegisters, Transport, mmio};

/// Longest time for a device to answer, in microseconds. Far above the usual, since the whole
/// machine may be emulated twice.
const TIMEOUT: u64 = 10_000_000;

/// Test points in all: those of machine, features, block, console, network, sockets and the other
/// harts.
const PLAN: u32 = machine::POINTS
    + features::POINTS
    + block::POINTS
    + console::POINTS
    + net::POINTS
    + vsock::POINTS
    + smp::POINTS;

/// A device's registers.
type Registers = MmioRegisters;

/// The context of all tests.
struct Rig<'a> {
    tap: Tap<Output>,
    fdt: Fdt<'a>,
    board: &'a Board<'a>,
    dma: Dma,
}

/// Runs all tests.
pub(crate) fn run(board: &Board<'_>, boot: Boot) -> Outcome {
    let mut rig = Rig { tap: Tap::new(Output, PLAN), fdt: boot.fdt, board, dma: boot.dma };
    machine::run(&mut rig, boot.hart);
    features::run(&mut rig);
    block::run(&mut rig);
    console::run(&mut rig);
    net::run(&mut rig);
    vsock::run(&mut rig);
    smp::run(&mut rig, boot.hart);
    if rig.tap.finish() {
        Outcome::Passed
    } else {
        Outcome::Failed
    }
}

/// A wait for a device's answer.
fn deadline() -> Deadline {
    Deadline::after(TIMEOUT)
}

/// The value of `name=` in the command line.
fn setting<'a>(board: &Board<'a>, name: &str) -> Option<&'a str> {
    let mut words = board.bootargs.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The device in a slot, `None` if the slot is empty.
fn probe(slot: Slot) -> Result<Option<Transport<Registers>>, Error> {
    Transport::probe(MmioRegisters::physical(slot.base, mmio::LEN))
}

/// The slots with a device of the given id, and the device.
fn devices(board: &Board<'_>, id: u32) -> impl Iterator<Item = (Slot, Transport<Registers>)> {
    // A slot that cannot be probed has failed its own test point.
    board
        .slots()
        .filter_map(|slot| Some((slot, probe(slot).ok()??)))
        .filter(move |(_, transport)| transport.device_id() == id)
}

/// The name of a device.
fn kind(id: u32) -> &'static str {
    match id {
        device::NETWORK => "network",
        device::BLOCK => "block",
        device::CONSOLE => "console",
        _ => "device",
    }
}
