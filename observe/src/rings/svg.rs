//! Queues as a drawing: available ring, chains in flight and used ring, side by side. Entries that
//! the device owns are filled; those that the driver owns are not.

use std::fmt::Write;

use super::{Descriptor, Queue};

/// The most slots around the indices, and the most chains, that are drawn.
const SLOTS: u16 = 24;
const CHAINS: usize = 20;
/// How many free slots are drawn after the last filled one.
const FREE: u16 = 2;

/// Lengths in the drawing's units.
const ROW: usize = 22;
const RING: usize = 150;
const CHAIN_AT: usize = 230;
const BOX: usize = 176;
const STEP: usize = 196;
const USED_AT: usize = CHAIN_AT + 4 * STEP + 20;
const WIDTH: usize = USED_AT + RING + 40;

const STYLE: &str = "text{font:12px ui-monospace,monospace;fill:#1b1f24}.title{font-size:15px;font-weight:bold}\
.note{fill:#59636e}rect{fill:#fff;stroke:#8c959f}.device{fill:#ffd8a8;stroke:#d9730d}.table{fill:#d0ebff;stroke:#1971c2}\
path{fill:none;stroke:#59636e}.idx{fill:#c92a2a}";

/// Draws all queues, one below the other.
pub(super) fn draw(queues: &[&Queue]) -> String {
    let mut body = String::new();
    legend(&mut body);
    let mut top = 40;
    for queue in queues {
        top = one(&mut body, queue, top) + 30;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" height=\"{top}\">\
         <style>{STYLE}</style><rect x=\"0\" y=\"0\" width=\"{WIDTH}\" height=\"{top}\" style=\"stroke:none\"/>\n{body}</svg>\n"
    )
}

/// Explains the colours.
fn legend(out: &mut String) {
    let entries = [
        (16, "device", "in flight: the device's"),
        (CHAIN_AT, "table", "a table of descriptors"),
        (CHAIN_AT + STEP, "", "the driver's"),
    ];
    for (x, class, label) in entries {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"14\" rx=\"3\" class=\"{class}\"/>"
        );
        text(out, (x + 22, 24), "note", label);
    }
}

/// Draws a queue at `top`. Returns the position of its lower end.
fn one(out: &mut String, queue: &Queue, top: usize) -> usize {
    let (available, used) = (&queue.available, &queue.used);
    let size = u16::try_from(queue.descriptors.len()).unwrap_or(u16::MAX);
    let title = format!(
        "{} queue {}, {}",
        queue.device,
        queue.queue,
        queue.moment.text()
    );
    text(out, (16, top + 16), "title", &title);
    let heads = top + 46;
    let event = |event: Option<u16>| event.map_or("-".to_owned(), |event| event.to_string());
    let about = [
        (
            16,
            "available ring",
            format!(
                "idx {}, used_event {}",
                available.idx,
                event(available.used_event)
            ),
        ),
        (
            CHAIN_AT,
            "descriptor chains in flight",
            format!(
                "{} of them; the table has {size} descriptors",
                queue.in_flight.len()
            ),
        ),
        (
            USED_AT,
            "used ring",
            format!("idx {}, avail_event {}", used.idx, event(used.avail_event)),
        ),
    ];
    for (x, name, note) in &about {
        text(out, (*x, heads), "", name);
        text(out, (*x, heads + 16), "note", note);
    }
    let first = heads + 30;
    // From the last few used slots to the first free ones.
    let begin = used.idx.wrapping_sub(4.min(used.idx));
    let filled = available.idx.wrapping_sub(begin).saturating_add(FREE);
    let shown = SLOTS.min(size).min(filled);
    for (n, row) in (0..shown).zip(0..) {
        let idx = begin.wrapping_add(n);
        let slot = usize::from(idx) % usize::from(size.max(1));
        let y = first + row * ROW;
        let is_in_flight = usize::from(idx.wrapping_sub(used.idx)) < queue.in_flight.len();
        let class = if is_in_flight { "device" } else { "" };
        let label = match available.ring.get(slot) {
            Some(head) if is_in_flight => format!("{slot:>3}: head {head}"),
            // A slot that was never used has no head, and an old one is the driver's again.
            _ => format!("{slot:>3}:"),
        };
        cell(out, (16, y), RING, class, &label);
        let is_used = used.idx.wrapping_sub(idx).wrapping_sub(1) < 4;
        let label = match used.ring.get(slot) {
            Some((head, written)) if is_used => format!("{slot:>3}: head {head}, {written}"),
            _ => format!("{slot:>3}:"),
        };
        cell(out, (USED_AT, y), RING, "", &label);
        if idx == available.idx {
            text(out, (16 + RING - 40, y + 14), "idx", "◀ idx");
        }
        if idx == used.idx {
            text(out, (USED_AT + RING - 40, y + 14), "idx", "◀ idx");
        }
    }
    let mut row = 0;
    for (head, n) in queue.in_flight.iter().zip(0_usize..).take(CHAINS) {
        let y = first + row * ROW;
        let from = first + (usize::from(used.idx.wrapping_sub(begin)) + n) * ROW + ROW / 2;
        if n < usize::from(shown) {
            let (x0, x1, y1) = (16 + RING, CHAIN_AT, y + ROW / 2);
            let _ = writeln!(
                out,
                "<path d=\"M{x0} {from}C{} {from} {} {y1} {x1} {y1}\"/>",
                x0 + 30,
                x1 - 30
            );
        }
        links(out, y, "device", queue.chain(*head).into_iter());
        row += 1;
        if let Some(table) = queue.table(*head) {
            let entries = (0_u16..).zip(table.iter().copied());
            links(out, first + row * ROW, "table", entries);
            row += 1;
        }
    }
    first + row.max(usize::from(shown)) * ROW
}

/// Draws a chain as a row of boxes. Boxes that do not fit are counted.
fn links(out: &mut String, y: usize, class: &str, chain: impl Iterator<Item = (u16, Descriptor)>) {
    let chain: Vec<_> = chain.collect();
    for (n, (index, descriptor)) in chain.iter().enumerate().take(4) {
        let x = CHAIN_AT + n * STEP;
        let Descriptor { len, .. } = descriptor;
        let label = match n {
            3 if chain.len() > 4 => format!("… {} more", chain.len() - 3),
            _ => format!("[{index}] {len} {}", descriptor.direction()),
        };
        cell(out, (x, y), BOX, class, &label);
        if n > 0 {
            let (from, middle) = (x - (STEP - BOX), y + ROW / 2);
            let _ = writeln!(out, "<path d=\"M{from} {middle}H{x}\"/>");
        }
    }
}

fn cell(out: &mut String, (x, y): (usize, usize), width: usize, class: &str, label: &str) {
    let height = ROW - 3;
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"3\" class=\"{class}\"/>"
    );
    text(out, (x + 6, y + 14), "", label);
}

fn text(out: &mut String, (x, y): (usize, usize), class: &str, label: &str) {
    // Only the name of a device needs escaping, as the file may come from anywhere.
    let label = label.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" class=\"{class}\" xml:space=\"preserve\">{label}</text>"
    );
}
