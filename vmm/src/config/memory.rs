//! RAM: `--memory [size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]`.

use serde::{Deserialize, Serialize};

use crate::layout::MIB;
use crate::size;

/// RAM as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Memory {
    /// Bytes.
    pub size: u64,
    /// Huge pages of the host.
    #[serde(default)]
    pub hugepages: HugePages,
    /// All pages are taken from the host at the start.
    #[serde(default)]
    pub prealloc: bool,
    /// A file behind it, which other processes can map.
    #[serde(default)]
    pub shared: bool,
}

/// Whether guest RAM comes from the host's huge pages (hugetlbfs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// All of it, or an error.
    On,
    /// Ordinary pages; the host may still make transparent huge pages of them.
    #[default]
    Off,
    /// If enough are free.
    Auto,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new(256 * MIB)
    }
}

impl Memory {
    /// `size` bytes with nothing else said.
    pub fn new(size: u64) -> Self {
        Memory {
            size,
            hugepages: HugePages::default(),
            prealloc: false,
            shared: false,
        }
    }

    /// Reads `[size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]`.
    ///
    /// # Errors
    /// The text is none of this form; the message says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let size = parts.next().unwrap_or_default();
        let mut memory = Memory::new(size::parse(size.strip_prefix("size=").unwrap_or(size))?);
        for part in parts {
            match part {
                "hugepages=on" => memory.hugepages = HugePages::On,
                "hugepages=off" => memory.hugepages = HugePages::Off,
                "hugepages=auto" => memory.hugepages = HugePages::Auto,
                "prealloc" => memory.prealloc = true,
                "shared" => memory.shared = true,
                _ => {
                    return Err(format!(
                        "unknown key {part:?}, known are hugepages=on|off|auto, prealloc and shared"
                    ));
                }
            }
        }
        Ok(memory)
    }
}
