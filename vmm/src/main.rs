//! `hartvisor`: runs the command line and reports an error in one line.

use std::process::ExitCode;

use vmm::cli::{self, Command, Parsed};
use vmm::error::Error;
use vmm::host::terminal;
use vmm::{check, external, heap, logger, run, show, stderr, vhost_user};

fn main() -> ExitCode {
    heap::share();
    terminal::install_panic_hook();
    match hartvisor() {
        Ok(status) => status.into(),
        Err(error) => {
            stderr::line(error.chain());
            error.exit_code().into()
        }
    }
}

fn hartvisor() -> Result<u8, Error> {
    logger::start()?;
    match cli::parse(std::env::args_os())? {
        Parsed::Command(Command::Run(options)) => run::run((*options).into()),
        Parsed::Command(Command::VhostUser(options)) => {
            Ok(vhost_user::run(&options.into())?.exit_code())
        }
        Parsed::Command(Command::Compare(options)) => {
            Err(external::become_program("compare", &options.arguments))
        }
        Parsed::Command(Command::Trace(options)) => show::trace(&options),
        Parsed::Command(Command::Rings(options)) => show::rings(&options),
        Parsed::Command(Command::Check(options)) => check::check(options.json),
        Parsed::Text(text) => {
            // Fails if stdout is closed, in which case nobody reads the text.
            let _ = text.print();
            Ok(0)
        }
    }
}
