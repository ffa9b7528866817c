//! What this process takes of the host, from /proc.

use std::fs;

use super::report::Memory;

/// `None` where /proc does not tell. `ram`: bytes of the guest's RAM, which is told apart.
pub(super) fn of_this_process(ram: u64) -> Option<Memory> {
    let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
    let faults = fs::read_to_string("/proc/self/stat").ok();
    let (minor_faults, major_faults) = faults.as_deref().and_then(faults_in)?;
    Some(Memory {
        minor_faults,
        major_faults,
        ..mappings(&smaps, ram / 1024)
    })
}

/// Adds up the mappings in a `smaps` file. One of at least `ram` KiB is the guest's RAM: nothing else of ours is as large.
fn mappings(text: &str, ram: u64) -> Memory {
    let mut memory = Memory::default();
    let mut is_ram = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        match key {
            "Size:" => is_ram = value >= ram,
            "Pss:" if is_ram => memory.guest_ram_kib += value,
            "Pss:" => memory.pss_kib += value,
            "Anonymous:" if !is_ram => memory.anonymous_kib += value,
            _ => {}
        }
    }
    memory
}

/// minflt and majflt (proc_pid_stat(5), fields 10 and 12). The name before them may hold blanks and parentheses.
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
    fn the_guests_ram_is_told_apart() {
        let smaps = "\
00010000-000f0000 r-xp 00000000 00:1b 5          /bin/hartvisor
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
        let memory = mappings(smaps, 256 << 10);
        assert_eq!((memory.pss_kib, memory.anonymous_kib), (620, 12));
        assert_eq!(memory.guest_ram_kib, 90_000);
    }

    #[test]
    fn faults_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 345 6 78 9 1 2 3 4 20 0";
        assert_eq!(faults_in(stat), Some((345, 78)));
        assert_eq!(faults_in("7 (a"), None);
        assert!(of_this_process(1 << 30).unwrap().pss_kib > 0);
    }
}
