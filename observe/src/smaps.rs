//! The memory of a process, from the text of its `/proc/PID/smaps`
//! (proc_pid_smaps(5)).

/// A process's mappings, added up. All in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Share of pages (PSS) of the guest's RAM; `None` if no mapping matches.
    pub guest_ram: Option<u64>,
    /// Share of pages of everything else.
    pub pss: u64,
    /// Anonymous memory of everything else.
    pub anonymous: u64,
}

/// Adds up the mappings of `smaps`, except the guest's RAM of `ram` bytes. The RAM is the mapping
/// of exactly that size. If there is none, it is a larger one, since the kernel merges adjacent
/// mappings that are alike.
pub fn usage(smaps: &str, ram: u64) -> Usage {
    let (mappings, ram) = (mappings(smaps), ram >> 10);
    let exact = mappings.iter().any(|mapping| mapping.size == ram);
    let mut usage = Usage::default();
    for mapping in mappings {
        if mapping.size == ram || !exact && mapping.size > ram {
            *usage.guest_ram.get_or_insert(0) += mapping.pss;
        } else {
            usage.pss += mapping.pss;
            usage.anonymous += mapping.anonymous;
        }
    }
    usage
}

/// A mapping; sizes are in KiB.
#[derive(Default)]
struct Mapping {
    size: u64,
    pss: u64,
    anonymous: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else {
            continue;
        };
        if key == "Size:" {
            mappings.push(Mapping { size: value, ..Mapping::default() });
        }
        let Some(mapping) = mappings.last_mut() else {
            continue;
        };
        match key {
            "Pss:" => mapping.pss = value,
            "Anonymous:" => mapping.anonymous = value,
            _ => {}
        }
    }
    mappings
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

    /// `SMAPS` with a gigabyte for the code that QEMU generates.
    fn with_code() -> String {
        format!(
            "{SMAPS}3fb0000000-3ff0000000 rwxp 0 0:0 0\nSize: 1048576 kB\nPss: 7 kB\nAnonymous: 7 kB\n"
        )
    }

    #[test]
    fn the_guests_ram_is_counted_separately() {
        let expected = Usage { guest_ram: Some(90_000), pss: 620, anonymous: 12 };
        assert_eq!(usage(SMAPS, 256 << 20), expected);
    }

    #[test]
    fn a_larger_mapping_is_the_guests_ram_only_if_none_fits() {
        let exact = Usage { guest_ram: Some(90_000), pss: 627, anonymous: 19 };
        assert_eq!(usage(&with_code(), 256 << 20), exact);
        assert_eq!(usage(SMAPS, 255 << 20).guest_ram, Some(90_000));
    }

    #[test]
    fn without_a_match_the_guests_ram_is_unknown() {
        let all = Usage { guest_ram: None, pss: 90_620, anonymous: 90_012 };
        assert_eq!(usage(SMAPS, 512 << 20), all);
    }
}
