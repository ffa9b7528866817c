//! The virtio console.

use guest::fdt::Slot;
use guest::tap::{Failure, Point, Verdict};
use guest::timer::Deadline;
use guest::virtio::device;
use guest::{Console, Wait, console, irq};

use super::{Registers, Rig, deadline, devices, interrupt};

pub(super) const POINTS: u32 = 3;

/// Longest time for a user to type a line, in microseconds.
const TYPING: u64 = 3_000_000;
/// The first output on the console. All output there is TAP comments, since the results may appear
/// on the same terminal.
const GREETING: &[u8] = b"# hello from the virtio console\n";
/// The output of the interrupt test.
const SECOND: &[u8] = b"# this line should interrupt\n";
/// Longer than a line of a terminal.
const LONG: &[u8; 200] = &{
    let mut line = [b'.'; 200];
    line[0] = b'#';
    line[1] = b' ';
    line[199] = b'\n';
    line
};
/// Skipped without a console.
const ABSENT: Point = Point::Skip("no virtio console");

pub(super) fn run(rig: &mut Rig<'_>) {
    let found = devices(rig.board, device::CONSOLE).next();
    let opened = found.map(|(slot, transport)| {
        irq::watch(slot);
        let console = Console::new(transport, &mut rig.dma, console::WANTED);
        console
            .map(|console| (slot, console))
            .map_err(Failure::from)
    });
    let mut opened = opened.transpose();
    let mut each = |name, test: &mut dyn FnMut(&mut Rig<'_>, &mut Open) -> Verdict| {
        let verdict = match &mut opened {
            Ok(Some(open)) => test(rig, open),
            Ok(None) => Ok(ABSENT),
            Err(failure) => Err(*failure),
        };
        rig.tap.point(name, verdict);
    };
    each("console: sends", &mut |rig, open| sends(rig, open));
    each(
        "console: its interrupt arrives",
        &mut |_, (slot, console)| {
            interrupt::follows(*slot, || Ok(console.send(SECOND, &mut deadline())?))
        },
    );
    each(
        "console: a typed line arrives and is sent back",
        &mut |rig, open| echoes(rig, open),
    );
}

type Open = (Slot, Console<Registers>);

fn sends(rig: &mut Rig<'_>, (_, console): &mut Open) -> Verdict {
    if let Some((columns, rows)) = console.size()? {
        rig.tap.comment(format_args!(
            "the terminal has {columns} columns and {rows} rows"
        ));
    }
    // Only whole lines, since the results may appear on the same terminal.
    for line in [GREETING, LONG] {
        console.send(line, &mut deadline())?;
    }
    Ok(Point::Pass)
}

fn echoes(rig: &mut Rig<'_>, (_, console): &mut Open) -> Verdict {
    console.send(b"# type a line within 3 s\n", &mut deadline())?;
    let mut line = [0; 128];
    let mut len = 0;
    let mut wait = Deadline::after(TYPING);
    loop {
        let free = line.get_mut(len..).unwrap_or_default();
        let count = console.receive(free)?;
        len += count;
        let typed = line.get(..len).unwrap_or_default();
        let ended = typed.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        if ended || len == line.len() || (count == 0 && !wait.wait()) {
            break;
        }
    }
    let typed = line.get(..len).unwrap_or_default();
    if typed.is_empty() {
        console.transport().alive()?;
        return Ok(Point::Skip("nothing was typed"));
    }
    let text = typed.trim_ascii_end();
    rig.tap
        .comment(format_args!("{len} bytes arrived: {}", text.escape_ascii()));
    console.send(b"# you typed: ", &mut deadline())?;
    console.send(text, &mut deadline())?;
    console.send(b"\n", &mut deadline())?;
    Ok(Point::Pass)
}
