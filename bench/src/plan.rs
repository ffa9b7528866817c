//! What `bench` asks of `meter`: a JSON file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::Test;
use crate::record::Measure;
use crate::scale::Scene;

/// Where `meter` puts everything that a VMM reads: a file system in memory, so that no measured
/// step waits for this machine.
pub const FOLDER: &str = "/tmp/bench";

/// The work of one run of `meter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Files to copy, from the machine's directory to one below [`FOLDER`].
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The guest's disk, created again for each start.
    pub disk: PathBuf,
    /// The guest's RAM in KiB.
    pub ram: u64,
    /// Huge pages of 2 MiB that the host keeps free.
    pub hugepages: u64,
    /// A start that nobody looks at: KVM, and what it needs of the kernel, is set up by the first
    /// VM of a host, and taken down more slowly.
    pub warm_up: Start,
    /// The starts, in this order.
    pub starts: Vec<Start>,
}

/// The work of one run of `meter scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalePlan {
    /// As in [`Plan`].
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Disks of 1 MiB that scenes name.
    pub disks: Vec<PathBuf>,
    /// As in [`Plan`].
    pub warm_up: Scene,
    /// In this order.
    pub scenes: Vec<Scene>,
}

/// One start of a VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What to measure.
    pub measure: Measure,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What `load` will do, as in the kernel command line of the command, in the form of [`Test`].
    pub tests: Vec<String>,
}

impl Start {
    /// The tests.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parsed(&self) -> anyhow::Result<Vec<Test>> {
        let parse = |text: &String| {
            text.parse()
                .map_err(|()| anyhow::anyhow!("no such test: {text}"))
        };
        self.tests.iter().map(parse).collect()
    }
}
