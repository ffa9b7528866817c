//! A queue as text.

use std::fmt::Write;

use super::{Descriptor, Queue};

/// The most entries of a ring, and the most chains, that are printed. The rest is counted.
const LINES: usize = 16;

/// Prints a queue.
pub(super) fn draw(queue: &Queue) -> String {
    let (available, used) = (&queue.available, &queue.used);
    let size = queue.descriptors.len();
    let flight = queue.in_flight.len();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} queue {}, {}: {size} descriptors, {flight} chains in flight",
        queue.device,
        queue.queue,
        queue.moment.text()
    );
    let event = |event: Option<u16>| event.map_or("-".to_owned(), |event| event.to_string());
    let _ = writeln!(
        text,
        "  available ring, the driver writes: idx {}, flags {}, used_event {}",
        available.idx,
        available.flags,
        event(available.used_event)
    );
    let slot = |idx: u16| usize::from(idx) % size.max(1);
    for (head, n) in queue.in_flight.iter().zip(0..).take(LINES) {
        let slot = slot(used.idx.wrapping_add(n));
        let _ = writeln!(text, "    slot {slot:>3}: head {head:>3}, the device's");
    }
    more(&mut text, flight);
    let _ = writeln!(
        text,
        "  used ring, the device writes: idx {}, flags {}, avail_event {}",
        used.idx,
        used.flags,
        event(used.avail_event)
    );
    let count = usize::from(used.idx).min(4);
    for back in (1..=count).rev() {
        let slot = slot(used.idx.wrapping_sub(u16::try_from(back).unwrap_or(0)));
        if let Some((head, written)) = used.ring.get(slot) {
            let _ = writeln!(
                text,
                "    slot {slot:>3}: head {head:>3}, {written} bytes written, the driver's again"
            );
        }
    }
    let _ = writeln!(text, "  descriptor table");
    for head in queue.in_flight.iter().take(LINES) {
        chain(&mut text, queue, *head);
    }
    more(&mut text, flight);
    let mut taken: Vec<u16> = queue
        .in_flight
        .iter()
        .flat_map(|head| queue.chain(*head))
        .map(|(index, _)| index)
        .collect();
    taken.sort_unstable();
    taken.dedup();
    let free = size - taken.len();
    let _ = writeln!(text, "    {free} of {size} descriptors are the driver's");
    text
}

fn more(text: &mut String, all: usize) {
    if all > LINES {
        let _ = writeln!(text, "    … {} more", all - LINES);
    }
}

fn chain(text: &mut String, queue: &Queue, head: u16) {
    let links = queue.chain(head);
    let links = links.iter().map(|(index, it)| one(*index, it));
    let _ = writeln!(text, "    {}", links.collect::<Vec<_>>().join(" → "));
    if let Some(table) = queue.table(head) {
        let entries = table.iter().zip(0..).map(|(it, index)| one(index, it));
        let entries = entries.collect::<Vec<_>>().join(" → ");
        let _ = writeln!(text, "        its table: {entries}");
    }
}

fn one(index: u16, descriptor: &Descriptor) -> String {
    let Descriptor { address, len, .. } = descriptor;
    let direction = descriptor.direction();
    format!("[{index}] {address:#x} {len} bytes, {direction}")
}
