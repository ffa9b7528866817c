//! `hartvisor trace …`.

use std::path::PathBuf;

use clap::Subcommand;

const EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img --trace trace.json
  hartvisor trace show trace.json
  hartvisor trace show trace.json --request 17";

/// The subcommands of `hartvisor trace`.
#[derive(Clone, Debug, Subcommand)]
pub enum Trace {
    /// Show the history of one request, from the driver's kick to its acknowledgement of the
    /// interrupt
    #[command(after_help = EXAMPLES)]
    Show {
        /// A trace written by run --trace
        file: PathBuf,
        /// The request's number in the trace [default: the first request of a disk]
        #[arg(long, value_name = "N")]
        request: Option<u64>,
    },
}
