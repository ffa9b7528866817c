//! The memory of a process, from `/proc/PID/smaps`.

use serde::{Deserialize, Serialize};

/// What a VMM takes beside its guest's RAM, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its proportional share of all its pages.
    pub pss: u64,
    /// The anonymous ones: heap, stacks, written data.
    pub anonymous: u64,
}

/// Adds up the mappings in the text of a `smaps` file but those of at least `ram` KiB: that is the guest's RAM.
pub fn beside_ram(text: &str, ram: u64) -> Memory {
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
            "Pss:" if !is_ram => memory.pss += value,
            "Anonymous:" if !is_ram => memory.anonymous += value,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00010000-000f0000 r-xp 00000000 00:1b 5          /run/bench/hartvisor
Size:                896 kB
KernelPageSize:        4 kB
Rss:                 600 kB
Pss:                 600 kB
Pss_Dirty:             0 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3f70000000-3f80000000 rw-p 00000000 00:00 0
Size:             262144 kB
Pss:               90000 kB
Anonymous:         90000 kB
VmFlags: rd wr mr mw me ac hg
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
        assert_eq!(beside_ram(SMAPS, 256 << 10), expected);
        assert_eq!(beside_ram(SMAPS, 512 << 10).pss, 90_620);
    }
}
