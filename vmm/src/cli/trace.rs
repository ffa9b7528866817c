//! `hartvisor trace …`.

use std::path::PathBuf;

use clap::Subcommand;

const EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img --trace trace.json
  hartvisor trace show trace.json
  hartvisor trace show trace.json --request 17";

/// What to do with a trace.
#[derive(Clone, Debug, Subcommand)]
pub enum Trace {
    /// Tell one request's life, from the driver's kick to its acknowledgement of the interrupt
    #[command(after_help = EXAMPLES)]
    Show {
        /// What run --trace wrote
        file: PathBuf,
        /// Which request, by its number in the trace; the first one of a disk otherwise
        #[arg(long, value_name = "N")]
        request: Option<u64>,
    },
}
