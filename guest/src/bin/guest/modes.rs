//! The selection of a mode.

use guest::boot::{Boot, Outcome};
use guest::fdt::{self, Board};
use guest::println;

/// The modes.
enum Mode {
    Test,
    Echo,
    Traps,
    Faults,
    Poweroff,
}

/// The program's main function.
pub(crate) fn main(boot: Boot) -> Outcome {
    let mode = match mode(fdt::bootargs(boot.fdt)) {
        Ok(Mode::Poweroff) => return Outcome::Passed,
        Ok(mode) => mode,
        Err(word) => {
            println!(
                "guest: no mode `{word}`; there are test, echo, bench traps, faults and poweroff"
            );
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
        Mode::Faults => crate::faults::run(&board, fdt::uart(boot.fdt)),
        Mode::Traps => crate::traps::run(&board, boot),
        Mode::Test | Mode::Poweroff => crate::test::run(&board, boot),
    }
}

/// The mode among the boot arguments, `test` without one. Settings (`name=value`) are not modes.
fn mode(bootargs: &str) -> Result<Mode, &str> {
    let mut words = bootargs
        .split_whitespace()
        .filter(|word| !word.contains('='));
    match words.next() {
        None | Some("test") => Ok(Mode::Test),
        Some("echo") => Ok(Mode::Echo),
        Some("bench") if words.next() == Some("traps") => Ok(Mode::Traps),
        Some("faults") => Ok(Mode::Faults),
        Some("poweroff") => Ok(Mode::Poweroff),
        Some(other) => Err(other),
    }
}
