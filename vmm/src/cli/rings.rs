//! `hartvisor rings …`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img --rings rings.json
  hartvisor rings rings.json
  hartvisor rings rings.json --device disk0 --queue 0 --svg rings.svg";

/// What to draw.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rings {
    /// What run --rings wrote
    pub file: PathBuf,
    /// Only this device's: console, disk0, …
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Only queues of this index
    #[arg(long, value_name = "N")]
    pub queue: Option<u16>,
    /// Draw to FILE, as SVG, instead of text to stdout
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}
