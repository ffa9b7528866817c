//! What to run, and the observations: the JSON that goes into the emulated host and comes out of
//! it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The runs of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What is added for the run that counts, and the file in which the command leaves its counts
    /// then.
    pub counting: Option<Counting>,
    /// How often it is timed. One more run counts.
    pub runs: u32,
    /// Seconds that each run may take.
    pub timeout: u64,
    /// What is typed into each run: a file, or nothing.
    pub input: Option<PathBuf>,
    /// Files that are copied before each run, from where and to where: a guest's disks.
    pub copies: Vec<(PathBuf, PathBuf)>,
    /// Bytes of the guest's RAM, to tell it from the memory of the VMM.
    pub ram: u64,
}

/// How a command is asked for its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    /// Arguments behind the others.
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
    /// By this signal, which did not come from here.
    Signal(i32),
    /// It was still running when its time was up, and was ended.
    TimedOut,
    /// It wrote more than [`crate::observe::OUTPUT_MAX`], and was ended.
    TooMuch,
}

/// A line that a run wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When its first byte came, in microseconds from the start.
    pub at: u64,
    /// Without the end of the line. What is no UTF-8 is replaced.
    pub text: String,
}

/// What was seen of one run.
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
    /// What was counted, in the run that counts.
    pub counts: Option<Counts>,
}

/// What the run that counts gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The largest memory of all its processes beside the guest's RAM, where the two can be told
    /// apart.
    pub memory: Option<Memory>,
    /// What the command left in its file, if that was JSON.
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
