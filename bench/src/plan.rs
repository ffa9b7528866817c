//! The input of `meter`, written by `bench`: a JSON file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::Test;
use crate::record::Measure;
use crate::scale::Scene;

/// Directory for everything that a VMM reads: a file system in memory, so that no measured step
/// depends on this machine's disk.
pub const FOLDER: &str = "/tmp/bench";

/// The socket of the guest's socket device.
pub const VSOCK: &str = "/tmp/bench/vsock";

/// The work of one run of `meter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Files to copy: source on this machine, and destination below [`FOLDER`].
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The guest's disk, created again for each start.
    pub disk: PathBuf,
    /// The guest's RAM in KiB.
    pub ram: u64,
    /// Huge pages of 2 MiB that the host reserves.
    pub hugepages: u64,
    /// Commands of a shell that set up the host's network.
    pub network: Option<String>,
    /// The socket of the passt that each start has.
    pub passt: Option<PathBuf>,
    /// A start that is not measured. The first VM of a host sets up KVM and the parts of the kernel
    /// that it needs, and takes longer to exit.
    pub warm_up: Start,
    /// The starts, in order.
    pub starts: Vec<Start>,
}

/// The work of one run of `meter scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalePlan {
    /// As in [`Plan`].
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Disks of 1 MiB for the scenes.
    pub disks: Vec<PathBuf>,
    /// As in [`Plan`].
    pub warm_up: Scene,
    /// The scenes, in order.
    pub scenes: Vec<Scene>,
}

/// One start of a VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What to measure.
    pub measure: Measure,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The work of `load`, as in the kernel command line of the command, in the form of [`Test`].
    pub tests: Vec<String>,
}

impl Start {
    /// Parses the tests.
    ///
    /// # Errors
    /// The first invalid test.
    pub fn parsed(&self) -> anyhow::Result<Vec<Test>> {
        let parse = |text: &String| {
            text.parse()
                .map_err(|()| anyhow::anyhow!("no such test: {text}"))
        };
        self.tests.iter().map(parse).collect()
    }
}
