//! The errors of the comparison, and the exit status each one means.

use std::io;
use std::path::PathBuf;

/// Everything that can end `hartvisor compare` without a comparison.
///
/// The texts read as one line; a source is not repeated in them: [`Error::chain`] joins the two.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),

    /// A `--config` file is invalid.
    #[error(transparent)]
    Config(#[from] vmm::error::Error),

    /// A path that is not UTF-8 cannot be written into a plan, which is JSON.
    #[error("{0:?} is not UTF-8, as every argument of hartvisor compare must be")]
    NotText(std::ffi::OsString),

    /// The command of a peer has an unknown placeholder, or an open quote or brace.
    #[error("--peer {name}: {problem}")]
    Peer {
        /// As the user gave it.
        name: String,
        /// What is wrong, with what would be right.
        problem: String,
    },

    /// A file cannot be read or written.
    #[error("cannot {what} {path:?}")]
    File {
        /// "read", "write", "copy".
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },

    /// A program cannot be started.
    #[error("cannot start {program:?}")]
    Start {
        /// The first word of the command.
        program: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },

    /// The output of the emulated host is invalid.
    #[error("the emulated host gave no observations: {0}")]
    Lab(String),

    /// The program for the emulated host is missing.
    #[error("the emulated host has no {program}: make builds it")]
    NotBuilt {
        /// Its name.
        program: &'static str,
    },

    /// A plan, or kept results, cannot be read.
    #[error("cannot read {path:?} as {what}")]
    Json {
        /// "a plan".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        #[source]
        source: serde_json::Error,
    },

    /// A system call failed.
    #[error("cannot {what}")]
    Host {
        /// The operation.
        what: &'static str,
        /// The error of the system.
        #[source]
        source: io::Error,
    },

    /// The plotting library failed.
    #[error("cannot draw a picture: {0}")]
    Draw(String),

    /// A signal arrived; the running command has ended.
    #[error("ended by signal {0}")]
    Signal(i32),

    /// No way could run.
    #[error("nothing here can run the guest; the reasons are above")]
    NoWay,
}

impl Error {
    /// 2 for usage and bad input, 3 if this host cannot run it, 128 + n after signal n, else 4.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::NotText(_) | Error::Peer { .. } | Error::Json { .. } => 2,
            Error::File { .. } => 2,
            Error::Config(error) => error.exit_code(),
            Error::NoWay => 3,
            Error::Signal(number) => {
                u8::try_from(*number).map_or(u8::MAX, |number| number.saturating_add(128))
            }
            Error::Start { .. }
            | Error::Lab(_)
            | Error::NotBuilt { .. }
            | Error::Host { .. }
            | Error::Draw(_) => 4,
        }
    }

    /// The text and those of its sources, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    }
}
