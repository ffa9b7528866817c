//! The commands on a page of the book, and whether their output is that on the page.
//!
//! A block that begins with ```` ```console runs ```` is executed by bash in the project's
//! directory, command by command:
//!
//! ```text
//! $ the command, ended by a backslash \
//!     where it continues
//! a line of its output, blanks at the end aside
//! […]                                        any number of lines
//! # the timer came … us late                 … stands for any text
//! ```
//! With ```` ```console runs in NAME ```` the directory is one of the page's own, empty at its first
//! command. In a block that begins with ```` ```console types ````, commands run on a terminal.
//! There, text after a prompt of the guest is typed when the prompt comes:
//!
//! ```text
//! guest login: root
//! root@guest:~# poweroff
//! ```
//! Other blocks are not executed.

use std::io::{Read, Write};
use std::process::Child;

/// What prompts end with.
const PROMPTS: [&str; 2] = ["login: ", "# "];

/// A command and its expected output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its line on the page, from 1.
    pub line: usize,
    /// The command, for bash.
    pub command: String,
    /// The directory of the page's own in which it runs; without one, the project's.
    pub directory: Option<String>,
    /// Whether it runs on a terminal, and the output has text to type.
    pub terminal: bool,
    /// The expected lines.
    pub output: Vec<String>,
}

/// The commands of a page, in order.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block = None;
    let mut goes_on = false;
    for (number, line) in (1..).zip(page.lines()) {
        if let Some(info) = line.strip_prefix("```") {
            block = executed(info);
            goes_on = false;
            continue;
        }
        let Some((directory, terminal)) = &block else {
            continue;
        };
        if let Some(step) = steps.last_mut().filter(|_| goes_on) {
            step.command += &format!("\n{line}");
            goes_on = line.ends_with('\\');
        } else if let Some(command) = line.strip_prefix("$ ") {
            goes_on = line.ends_with('\\');
            steps.push(Step {
                line: number,
                command: command.into(),
                directory: directory.clone(),
                terminal: *terminal,
                output: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.output.push(line.trim_end().into());
        }
    }
    steps
}

/// Returns the directory of the page's own and whether there is a terminal, if the commands of a
/// block with this info string are executed.
fn executed(info: &str) -> Option<(Option<String>, bool)> {
    let mut words = info.strip_prefix("console ")?.split(' ');
    let terminal = match words.next()? {
        "runs" => false,
        "types" => true,
        _ => return None,
    };
    let directory = words.next().filter(|it| *it == "in").and(words.next());
    Some((directory.map(str::to_owned), terminal))
}

/// Splits a line after a prompt into the prompt and the text that is typed there.
fn typed(line: &str) -> Option<(&str, &str)> {
    let ends = |prompt: &&str| line.find(prompt).map(|at| at + prompt.len());
    let (prompt, text) = line.split_at(PROMPTS.iter().find_map(ends)?);
    Some((prompt, text)).filter(|(_, text)| !text.is_empty())
}

/// Has the dialog `said` with a program whose standard input and output are pipes, until it ends.
/// Returns all of its output.
///
/// # Errors
/// The output so far and the problem: an expected text does not come, or the program fails.
pub fn dialog(said: &[String], mut program: Child) -> Result<String, (String, String)> {
    let mut seen = String::new();
    let result = talk(said, &mut program, &mut seen);
    // A program that still runs has not been as expected.
    let ended = match &result {
        Ok(()) => program.wait().map_err(|error| error.to_string()),
        Err(why) => {
            let _ = program.kill();
            let _ = program.wait();
            Err(why.clone())
        }
    };
    match ended {
        Ok(status) if status.success() => Ok(seen),
        Ok(status) => Err((seen, status.to_string())),
        Err(why) => Err((seen, why)),
    }
}

fn talk(said: &[String], program: &mut Child, seen: &mut String) -> Result<(), String> {
    let (Some(mut input), Some(mut output)) = (program.stdin.take(), program.stdout.take()) else {
        return Err("its input and output are no pipes".into());
    };
    let mut read = 0;
    let mut more = |seen: &mut String| {
        let mut buffer = [0; 4096];
        let count = output.read(&mut buffer).unwrap_or(0);
        seen.push_str(&String::from_utf8_lossy(buffer.get(..count)?));
        (count > 0).then_some(())
    };
    for line in said.iter().filter(|line| line.trim() != "[…]") {
        let (expected, text) = typed(line).unwrap_or((line, ""));
        for part in expected.split('…') {
            read += loop {
                match seen.get(read..).unwrap_or_default().find(part) {
                    Some(at) => break at + part.len(),
                    None => more(seen).ok_or(format!("{part:?} does not come"))?,
                }
            };
        }
        if !text.is_empty() {
            writeln!(input, "{text}").map_err(|error| format!("{text:?}: {error}"))?;
        }
    }
    while more(seen).is_some() {}
    Ok(())
}

/// Whether `output` is as expected.
///
/// # Errors
/// The first expected line that is missing, or the first unexpected one.
pub fn check(said: &[String], output: &str) -> Result<(), String> {
    let mut lines = output.lines().map(str::trim_end);
    let mut anything = false;
    for expected in said {
        if matches!(expected.trim(), "[…]" | "…") {
            anything = true;
            continue;
        }
        let found = match std::mem::take(&mut anything) {
            true => lines.any(|line| matches(expected, line)),
            false => lines.next().is_some_and(|line| matches(expected, line)),
        };
        if !found {
            return Err(format!("{expected:?} does not come"));
        }
    }
    match lines.next() {
        Some(line) if !anything => Err(format!("{line:?} is not on the page")),
        _ => Ok(()),
    }
}

/// Whether a line is as expected, each … standing for any text.
fn matches(said: &str, line: &str) -> bool {
    let mut parts = said.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "text\n```console\n$ only read\n```\n```console runs\n$ echo \\\n  a\na\n$ true\n```\n$ text\n";

    #[test]
    fn only_blocks_that_say_so_are_run() {
        let step = |line, command: &str, output: &[&str]| Step {
            line,
            command: command.into(),
            directory: None,
            terminal: false,
            output: output.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(
            steps(PAGE),
            [step(6, "echo \\\n  a", &["a"]), step(9, "true", &[])]
        );
    }

    #[test]
    fn a_block_may_name_a_directory_and_type_on_a_terminal() {
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(executed("console runs"), Some((None, false)));
        assert_eq!(executed("console runs in d"), Some((named("d"), false)));
        assert_eq!(executed("console types in d"), Some((named("d"), true)));
        assert_eq!(executed("console"), None);
        assert_eq!(executed("sh"), None);
    }

    #[test]
    fn what_follows_a_prompt_is_typed() {
        assert_eq!(typed("guest login: root"), Some(("guest login: ", "root")));
        assert_eq!(typed("~# poweroff"), Some(("~# ", "poweroff")));
        assert_eq!(typed("~# "), None);
        assert_eq!(typed("Debian GNU/Linux 13 guest ttyS0"), None);
    }

    /// The dialog with a shell script.
    fn dialog_with(script: &str, said: &[&str]) -> Result<String, (String, String)> {
        let mut command = std::process::Command::new("sh");
        let pipe = std::process::Stdio::piped;
        let program = command.args(["-c", script]).stdin(pipe()).stdout(pipe());
        let said: Vec<_> = said.iter().map(|it| (*it).to_owned()).collect();
        dialog(&said, program.spawn().unwrap())
    }

    #[test]
    fn a_dialog_types_at_prompts_and_ends_with_the_program() {
        let script = "printf 'some text\ngo login: '; read name; printf \"hello $name\n\"";
        let said = ["[…]", "go login: me", "hel… me"];
        assert!(dialog_with(script, &said).unwrap().ends_with("hello me\n"));
        let wrong = dialog_with(script, &["go login: me", "good bye"]).unwrap_err();
        assert_eq!(wrong.1, "\"good bye\" does not come");
        let failed = dialog_with("exit 3", &[]).unwrap_err();
        assert_eq!(failed.1, "exit status: 3");
    }

    fn checked(said: &[&str], output: &str) -> bool {
        let said: Vec<_> = said.iter().map(|it| (*it).to_owned()).collect();
        check(&said, output).is_ok()
    }

    #[test]
    fn output_must_be_as_said() {
        assert!(checked(&["a", "b"], "a  \nb\n"));
        assert!(checked(&["a", "[…]", "d"], "a\nb\nc\nd\n"));
        assert!(checked(&["a", "[…]"], "a\nb\n"));
        assert!(checked(&["[…]", "b … us, … of 7"], "a\nb 12 us, 3 of 7\n"));
        assert!(!checked(&["a"], "b\n"));
        assert!(!checked(&["a"], "a\nb\n"));
        assert!(!checked(&["a", "b"], "a\n"));
        assert!(!checked(&["[…]", "e"], "a\nb\n"));
        assert!(!checked(&["b … us"], "b 12 ms\n"));
    }
}
