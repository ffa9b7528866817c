//! `hartvisor rings …`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img --rings rings.json
  hartvisor rings rings.json
  hartvisor rings rings.json --device disk0 --queue 0 --svg rings.svg";

/// The arguments of `hartvisor rings`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rings {
    /// A recording written by run --rings
    pub file: PathBuf,
    /// Only this device: console, disk0, …
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Only queues with this index
    #[arg(long, value_name = "N")]
    pub queue: Option<u16>,
    /// Write an SVG drawing to FILE, instead of text to stdout
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}
