//! The documentation of hartvisor, kept up to date: man pages and completions are generated from
//! its own command line, and the commands of the book can be run ([`session`]).

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

pub mod session;

/// The shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The whole command line, with that of `hartvisor compare`, which is a separate program.
pub fn command() -> Command {
    let command = vmm::cli::Cli::command();
    command.mut_subcommand("compare", |short| {
        let about = short.get_about().cloned().unwrap_or_default();
        let long = compare::cli::command().name("compare").about(about);
        long.bin_name("hartvisor compare")
    })
}

/// Writes `man1/hartvisor.1`, a page per command, and `completions/` into a directory.
///
/// # Errors
/// A file cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let (pages, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(command(), &pages)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command(), "hartvisor", &completions)?;
    }
    Ok(())
}
