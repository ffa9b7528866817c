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
//! Other blocks are not executed.

/// A command and its expected output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its line on the page, from 1.
    pub line: usize,
    /// The command, for bash.
    pub command: String,
    /// The expected lines.
    pub output: Vec<String>,
}

/// The commands of a page, in order.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut runs, mut goes_on) = (false, false);
    for (number, line) in (1..).zip(page.lines()) {
        if let Some(info) = line.strip_prefix("```") {
            runs = info == "console runs";
            goes_on = false;
        } else if !runs {
        } else if let Some(step) = steps.last_mut().filter(|_| goes_on) {
            step.command += &format!("\n{line}");
            goes_on = line.ends_with('\\');
        } else if let Some(command) = line.strip_prefix("$ ") {
            goes_on = line.ends_with('\\');
            steps.push(Step { line: number, command: command.into(), output: Vec::new() });
        } else if let Some(step) = steps.last_mut() {
            step.output.push(line.trim_end().into());
        }
    }
    steps
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
            output: output.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(
            steps(PAGE),
            [step(6, "echo \\\n  a", &["a"]), step(9, "true", &[])]
        );
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
