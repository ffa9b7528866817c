//! Which mode to run.

use guest::boot::{Boot, Outcome};
use guest::fdt::{self, Board};
use guest::println;

/// What the boot arguments ask for.
enum Mode {
    Test,
    Echo,
    Poweroff,
}

/// The program's main function.
pub(crate) fn main(boot: Boot) -> Outcome {
    let mode = match mode(fdt::bootargs(boot.fdt)) {
        Ok(Mode::Poweroff) => return Outcome::Passed,
        Ok(mode) => mode,
        Err(word) => {
            println!("guest: no mode `{word}`; there are test, echo and poweroff");
            return Outcome::Failed;
        }
    };
    let board = match Board::read(boot.fdt, boot.hart) {
        Ok(board) => board,
        Err(error) => {
            println!("guest: {error}");
            return Outcome::Failed;
        }
    };
    match mode {
        Mode::Echo => crate::echo::run(&board, boot.dma),
        Mode::Test | Mode::Poweroff => crate::test::run(&board, boot),
    }
}

/// The mode among the boot arguments, `test` without one. Settings (`name=value`) are for others.
fn mode(bootargs: &str) -> Result<Mode, &str> {
    match bootargs.split_whitespace().find(|word| !word.contains('=')) {
        None | Some("test") => Ok(Mode::Test),
        Some("echo") => Ok(Mode::Echo),
        Some("poweroff") => Ok(Mode::Poweroff),
        Some(other) => Err(other),
    }
}
