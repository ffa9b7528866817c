//! `make man`: writes man pages and completions into the given directory.

use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory] = directories.as_slice() else {
        let _ = writeln!(stderr(), "manual: expected one directory to write to");
        return 2.into();
    };
    match manual::write(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                stderr(),
                "manual: cannot write to {}: {error}",
                directory.display()
            );
            1.into()
        }
    }
}
