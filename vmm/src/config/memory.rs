//! RAM: `--memory [size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::layout::MIB;
use crate::size;

/// The configuration of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Memory {
    /// Bytes.
    pub size: u64,
    /// Use of the host's huge pages.
    #[serde(default)]
    pub hugepages: HugePages,
    /// Allocate all pages at the start.
    #[serde(default)]
    pub prealloc: bool,
    /// Use a file that other processes can map.
    #[serde(default)]
    pub shared: bool,
}

/// Whether guest RAM uses the host's huge pages (hugetlbfs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// All of it, or fail.
    On,
    /// Ordinary pages. The host may still use transparent huge pages.
    #[default]
    Off,
    /// Only if enough are free.
    Auto,
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&size::show(self.size))?;
        out.write_str(match self.hugepages {
            HugePages::On => ",hugepages=on",
            HugePages::Off => "",
            HugePages::Auto => ",hugepages=auto",
        })?;
        out.write_str(if self.prealloc { ",prealloc" } else { "" })?;
        out.write_str(if self.shared { ",shared" } else { "" })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new(256 * MIB)
    }
}

impl Memory {
    /// Creates `size` bytes, with defaults for the rest.
    pub fn new(size: u64) -> Self {
        Memory { size, hugepages: HugePages::default(), prealloc: false, shared: false }
    }

    /// Parses `[size=]SIZE[,hugepages=on|off|auto][,prealloc][,shared]`.
    ///
    /// # Errors
    /// A message that says what is wrong and what is expected.
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
