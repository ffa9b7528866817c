//! The memory of a process and its descendants, from /proc.

use std::fs;

use observe::smaps::usage;

use crate::plan::Memory;

/// The current memory of process `pid` and its descendants, without a guest's RAM of `ram` bytes.
/// `None` if no mapping has that size, since the guest's share is then unknown.
pub fn beside_ram(pid: u32, ram: u64) -> Option<Memory> {
    let mut total = Memory::default();
    let mut has_ram = false;
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        waiting.extend(children(pid));
        // A process that has just ended has no memory.
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let usage = usage(&smaps, ram);
        total.pss += usage.pss;
        total.anonymous += usage.anonymous;
        has_ram |= usage.guest_ram.is_some();
    }
    has_ram.then_some(total)
}

/// The child processes of all threads of `pid`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_unknown_where_no_mapping_is_the_guests() {
        assert_eq!(beside_ram(std::process::id(), 1 << 60), None);
    }
}
