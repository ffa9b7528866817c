//! What to run, and the observations, as the JSON that is exchanged with the emulated host.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The runs of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What the counting run adds, and the file to which the command then writes its counts.
    pub counting: Option<Counting>,
    /// Number of timed runs. One more run counts.
    pub runs: u32,
    /// Timeout per run, in seconds.
    pub timeout: u64,
    /// The input of each run: a file, or nothing.
    pub input: Option<PathBuf>,
    /// Files to copy before each run, as source and target: a guest's disks.
    pub copies: Vec<(PathBuf, PathBuf)>,
    /// Bytes of the guest's RAM, to distinguish it from the memory of the VMM.
    pub ram: u64,
}

/// How to get counts from a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    /// Arguments to append.
    pub arguments: Vec<String>,
    /// The file that they name.
    pub file: PathBuf,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// With this exit status.
    Status(i32),
    /// By this signal, which this program did not send.
    Signal(i32),
    /// It exceeded the timeout, and was ended.
    TimedOut,
    /// It wrote more than [`crate::observe::OUTPUT_MAX`], and was ended.
    TooMuch,
}

impl fmt::Display for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Status(status) => write!(out, "it ended with status {status}"),
            Ending::Signal(signal) => write!(out, "it was killed by signal {signal}"),
            Ending::TimedOut => out.write_str("it timed out"),
            Ending::TooMuch => out.write_str("it printed too much"),
        }
    }
}

/// A line that a run wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When its first byte arrived, in microseconds from the start.
    pub at: u64,
    /// Without the end of the line. Invalid UTF-8 is replaced.
    pub text: String,
}

/// The observations of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How it ended.
    pub ending: Ending,
    /// Its end, in microseconds from the start.
    pub exit: u64,
    /// Its standard output.
    pub lines: Vec<Line>,
    /// The end of its standard error.
    pub messages: String,
    /// The counts, in the counting run.
    pub counts: Option<Counts>,
}

/// The results of the counting run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The largest memory of all its processes without the guest's RAM, if the two can be
    /// distinguished.
    pub memory: Option<Memory>,
    /// The content of the command's file, if that was JSON.
    pub stats: Option<serde_json::Value>,
}

/// Memory of a VMM, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its proportional share of all its pages.
    pub pss: u64,
    /// The anonymous ones: heap, stacks, written data.
    pub anonymous: u64,
}
