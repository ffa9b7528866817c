//! The command line, and the loop over the tests.

use guest::boot::{Boot, Outcome};
use guest::fdt::{self, Board};
use guest::{irq, println, timer};

use crate::rig::Rig;
use crate::tests::{AREAS, Area, Test};

/// The program's main function.
pub(crate) fn main(boot: Boot) -> Outcome {
    let asked = match Asked::parse(fdt::bootargs(boot.fdt)) {
        Ok(Asked::List) => return list(),
        Ok(asked) => asked,
        Err(word) => {
            println!("conform: `{word}`? There are from=N, only=N,M and list");
            return Outcome::Failed;
        }
    };
    match Board::read(boot.fdt, boot.hart) {
        Ok(board) => run(&board, boot, &asked),
        Err(error) => {
            println!("conform: {error}");
            Outcome::Failed
        }
    }
}

/// The boot arguments.
enum Asked<'a> {
    /// Only the names.
    List,
    /// This test and the following ones.
    From(u32),
    /// These tests, separated by commas.
    Only(&'a str),
}

impl<'a> Asked<'a> {
    /// The error is the first unknown word.
    fn parse(bootargs: &'a str) -> Result<Self, &'a str> {
        let mut asked = Asked::From(1);
        for word in bootargs.split_whitespace() {
            asked = match word.split_once('=') {
                None if word == "list" => Asked::List,
                Some(("from", number)) => Asked::From(number.parse().map_err(|_| word)?),
                Some(("only", numbers)) => {
                    let sound = numbers.split(',').all(|it| it.parse::<u32>().is_ok());
                    sound.then_some(Asked::Only(numbers)).ok_or(word)?
                }
                _ => return Err(word),
            };
        }
        Ok(asked)
    }

    fn includes(&self, number: u32) -> bool {
        match self {
            Asked::List => false,
            Asked::From(first) => number >= *first,
            Asked::Only(numbers) => numbers.split(',').any(|it| it.parse() == Ok(number)),
        }
    }
}

/// All tests, with their numbers.
fn tests() -> impl Iterator<Item = (u32, &'static Area, &'static Test)> {
    let all = AREAS
        .iter()
        .flat_map(|area| area.tests.iter().map(move |test| (area, test)));
    (1..)
        .zip(all)
        .map(|(number, (area, test))| (number, area, test))
}

fn list() -> Outcome {
    for (number, _, test) in tests() {
        println!("{number} - {test}");
    }
    Outcome::Passed
}

fn run(board: &Board<'_>, boot: Boot, asked: &Asked<'_>) -> Outcome {
    timer::start(board);
    board.controller.map(irq::start);
    let plan = u32::try_from(tests().count()).unwrap_or(u32::MAX);
    let mut rig = match Rig::open(board, boot.dma, plan) {
        Ok(rig) => rig,
        Err(error) => {
            println!("conform: {error}");
            return Outcome::Failed;
        }
    };
    for (number, area, test) in tests() {
        if asked.includes(number) {
            rig.run(number, area, test);
        } else {
            rig.leave(test);
        }
    }
    rig.finish()
}
