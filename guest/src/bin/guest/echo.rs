//! Mode `echo`: sends input back, until Ctrl-d.

use crate::test::net;
use guest::boot::Outcome;
use guest::fdt::Board;
use guest::timer::{self, Deadline};
use guest::{
    Console, Dma, Error, MmioRegisters, Transport, Wait, console, irq, mmio, println, sbi,
};

/// End of transmission, Ctrl-d.
const EOT: u8 = 0x04;
/// Prints that the console is ready for input.
const GREETING: &[u8] = b"echo: what you type comes back, Ctrl-d ends\n";
/// Longest time for the terminal to accept output, in microseconds.
const TIMEOUT: u64 = 60_000_000;
/// Interval of polls of the firmware's console, in microseconds: it does not interrupt.
const FIRMWARE_POLL: u64 = 20_000;

/// Echoes on the virtio console, or without one on the firmware's.
pub(crate) fn run(board: &Board<'_>, mut dma: Dma) -> Outcome {
    timer::start(board);
    board.controller.map(irq::start);
    let found = match open(board, &mut dma) {
        Ok(found) => found,
        Err(error) => {
            println!("guest: virtio console: {error}");
            return Outcome::Failed;
        }
    };
    let Some(console) = found else {
        firmware();
        return Outcome::Passed;
    };
    match virtio(console, board, &mut dma) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            println!("guest: virtio console: {error}");
            Outcome::Failed
        }
    }
}

/// The first virtio console, ready for use.
fn open(board: &Board<'_>, dma: &mut Dma) -> Result<Option<Console<MmioRegisters>>, Error> {
    for slot in board.slots() {
        let Some(transport) = Transport::probe(MmioRegisters::physical(slot.base, mmio::LEN))?
        else {
            continue;
        };
        if transport.device_id() == guest::virtio::device::CONSOLE {
            irq::watch(slot);
            return Console::new(transport, dma, console::WANTED).map(Some);
        }
    }
    Ok(None)
}

fn virtio(
    mut console: Console<MmioRegisters>,
    board: &Board<'_>,
    dma: &mut Dma,
) -> Result<(), Error> {
    console.send(GREETING, &mut Deadline::after(TIMEOUT))?;
    if let Some(end) = net::answer(board, dma, || echo(&mut console).transpose())? {
        return end;
    }
    loop {
        // Created before the poll of the queue, so that no interrupt is missed in between.
        let mut wait = Deadline::after(TIMEOUT);
        if echo(&mut console)?.is_some() {
            return Ok(());
        }
        wait.wait();
    }
}

/// Sends back what has arrived. Returns whether the end was among it.
fn echo(console: &mut Console<MmioRegisters>) -> Result<Option<()>, Error> {
    let mut bytes = [0; 256];
    loop {
        let count = console.receive(&mut bytes)?;
        let arrived = bytes.get(..count).unwrap_or_default();
        let end = arrived.iter().position(|byte| *byte == EOT);
        let echo = arrived.get(..end.unwrap_or(count)).unwrap_or_default();
        console.send(echo, &mut Deadline::after(TIMEOUT))?;
        if end.is_some() {
            return Ok(Some(()));
        }
        if count == 0 {
            console.transport().alive()?;
            return Ok(None);
        }
    }
}

fn firmware() {
    loop {
        match sbi::get() {
            Some(EOT) => return,
            Some(byte) => sbi::put(&[byte]),
            None => {
                let mut wait = Deadline::after(FIRMWARE_POLL);
                while wait.wait() {}
            }
        }
    }
}
