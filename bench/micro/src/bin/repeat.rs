//! Runs one case a number of times and nothing else: `repeat NAME COUNT`. Without arguments it
//! lists the cases and the operations per call. `bench/instructions` runs it under callgrind.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal"
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut cases = micro::cases();
    let (Some(name), Some(Ok(count))) = (
        arguments.next(),
        arguments.next().map(|count| count.parse::<u64>()),
    ) else {
        for case in cases {
            println!("{}\t{}", case.times, case.name);
        }
        return ExitCode::SUCCESS;
    };
    let Some(case) = cases.iter_mut().find(|case| case.name == name) else {
        eprintln!("repeat: no case '{name}'");
        return ExitCode::FAILURE;
    };
    (0..count).for_each(|_| (case.run)());
    ExitCode::SUCCESS
}
