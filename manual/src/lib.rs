//! The documentation of hartvisor, kept up to date: man pages and completions are generated from
//! its own command line, and the commands of the book can be run ([`session`]).

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

mod pages;
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
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let names = pages::names(&command);
    pages::write(&mut command, &names, &pages)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut self::command(), "hartvisor", &completions)?;
    }
    Ok(())
}
