//! The memory of a process and of those that it started, from /proc.

use std::fs;

use crate::plan::Memory;

/// What process `pid` and its descendants take now beside a guest's RAM of `ram` bytes. Nothing where none of them has a
/// mapping of exactly that size, since the guest's share is not known then.
pub fn beside_ram(pid: u32, ram: u64) -> Option<Memory> {
    let mut total = Memory::default();
    let mut has_ram = false;
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        waiting.extend(children(pid));
        // A process that has just ended has none.
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let (memory, found) = add_up(&smaps, ram >> 10);
        total.pss += memory.pss;
        total.anonymous += memory.anonymous;
        has_ram |= found;
    }
    has_ram.then_some(total)
}

/// The processes that the threads of `pid` have started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    tasks
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// Adds up the mappings in the text of a `smaps` file but those of exactly `ram` KiB; whether there was one of those.
fn add_up(text: &str, ram: u64) -> (Memory, bool) {
    let (mut memory, mut is_ram, mut found) = (Memory::default(), false, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next();
        let Some(Ok(value)) = words.next().map(str::parse::<u64>) else {
            continue;
        };
        match key {
            Some("Size:") => {
                is_ram = value == ram;
                found |= is_ram;
            }
            Some("Pss:") if !is_ram => memory.pss += value,
            Some("Anonymous:") if !is_ram => memory.anonymous += value,
            _ => {}
        }
    }
    (memory, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00010000-000f0000 r-xp 00000000 00:1b 5          /usr/bin/hartvisor
Size:                896 kB
Pss:                 600 kB
Pss_Dirty:             0 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3f70000000-3f80000000 rw-p 00000000 00:00 0
Size:             262144 kB
Pss:               90000 kB
Anonymous:         90000 kB
3fa0000000-3fa0021000 rw-p 00000000 00:00 0      [heap]
Size:                132 kB
Pss:                  20 kB
Anonymous:            12 kB
";

    #[test]
    fn the_guests_ram_is_left_out() {
        let expected = Memory {
            pss: 620,
            anonymous: 12,
        };
        assert_eq!(add_up(SMAPS, 256 << 10), (expected, true));
    }

    #[test]
    fn memory_is_unknown_where_no_mapping_is_the_guests() {
        assert!(!add_up(SMAPS, 512 << 10).1);
        assert_eq!(beside_ram(std::process::id(), 1 << 60), None);
    }
}
