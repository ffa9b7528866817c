//! Errors. All are about files that the user named.

use std::io;
use std::path::PathBuf;

/// A recording cannot be made or shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recording cannot be opened.
    #[error("cannot open {what} {path:?}")]
    Open {
        /// What the file is: "trace", "rings".
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A recording or a drawing cannot be written.
    #[error("cannot write {what} {path:?}")]
    Write {
        /// What the file is, with a preposition: "the trace to".
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file is not a recording, or does not contain what was requested.
    #[error("{what} {path:?}: {problem}")]
    Recording {
        /// What the file is: "trace", "rings".
        what: &'static str,
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
