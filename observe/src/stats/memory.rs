//! The memory of this process, from /proc.

use std::fs;

use super::report::Memory;
use crate::smaps::usage;

/// `None` without /proc. `ram`: bytes of the guest's RAM, which is counted separately.
pub(super) fn of_this_process(ram: u64) -> Option<Memory> {
    let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
    let faults = fs::read_to_string("/proc/self/stat").ok();
    let (minor_faults, major_faults) = faults.as_deref().and_then(faults_in)?;
    let usage = usage(&smaps, ram);
    Some(Memory {
        pss_kib: usage.pss,
        anonymous_kib: usage.anonymous,
        guest_ram_kib: usage.guest_ram.unwrap_or(0),
        minor_faults,
        major_faults,
    })
}

/// minflt and majflt (proc_pid_stat(5), fields 10 and 12). The name before them may contain blanks
/// and parentheses.
fn faults_in(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some((minor, major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_after_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 345 6 78 9 1 2 3 4 20 0";
        assert_eq!(faults_in(stat), Some((345, 78)));
        assert_eq!(faults_in("7 (a"), None);
        assert!(of_this_process(1 << 30).unwrap().pss_kib > 0);
    }
}
