//! Test results in the Test Anything Protocol, version 14.

use core::fmt::{self, Write};

use crate::Error;

/// Why a test point passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The expected result.
    Pass,
    /// It is skipped, for this reason.
    Skip(&'static str),
}

/// The result of a test point.
pub type Verdict = Result<Point, Failure>;

/// Writes the plan, the points and comments.
#[derive(Debug)]
pub struct Tap<W> {
    out: W,
    planned: u32,
    done: u32,
    failed: u32,
    known: u32,
}

impl<W: Write> Tap<W> {
    /// Announces `planned` test points.
    pub fn new(out: W, planned: u32) -> Self {
        let mut tap = Self { out, planned, done: 0, failed: 0, known: 0 };
        tap.line(format_args!("TAP version 14"));
        tap.line(format_args!("1..{planned}"));
        tap
    }

    /// Reports one test point.
    pub fn point(&mut self, name: impl fmt::Display, verdict: Verdict) {
        self.done += 1;
        let number = self.done;
        match verdict {
            Ok(Point::Pass) => self.line(format_args!("ok {number} - {name}")),
            Ok(Point::Skip(why)) => self.line(format_args!("ok {number} - {name} # SKIP {why}")),
            Err(failure) => {
                self.failed += 1;
                self.line(format_args!("not ok {number} - {name}"));
                self.diagnose(&failure);
            }
        }
    }

    /// Reports a point that is known to fail here for the given reason; a failure does not count.
    pub fn known(&mut self, name: impl fmt::Display, verdict: Verdict, reason: &str) {
        match verdict {
            Ok(_) => self.point(name, verdict),
            Err(failure) => {
                self.done += 1;
                self.known += 1;
                let number = self.done;
                self.line(format_args!("not ok {number} - {name} # TODO {reason}"));
                self.diagnose(&failure);
            }
        }
    }

    /// Writes a comment.
    pub fn comment(&mut self, text: fmt::Arguments<'_>) {
        self.line(format_args!("# {text}"));
    }

    /// Prints a summary. Returns `true` if every planned point was reported and none failed.
    pub fn finish(mut self) -> bool {
        let Self { planned, done, failed, known, .. } = self;
        if done != planned {
            self.comment(format_args!("{planned} points planned, {done} reported"));
        }
        let passed = done - failed - known;
        match known {
            0 => self.comment(format_args!("{passed} of {planned} passed")),
            _ => self.comment(format_args!(
                "{passed} of {planned} passed, {known} known to fail here"
            )),
        }
        done == planned && failed == 0
    }

    /// The YAML block under a point that failed.
    fn diagnose(&mut self, failure: &Failure) {
        self.line(format_args!("  ---"));
        self.line(format_args!("  message: \"{failure}\""));
        self.line(format_args!("  ..."));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // A failure of the output cannot be reported; a reader sees that points are missing.
        let _ = writeln!(self.out, "{line}");
    }
}

/// Why a test point failed: a text of at most 112 bytes; longer ones are truncated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    text: [u8; Self::MAX],
    len: usize,
}

impl Failure {
    const MAX: usize = 112;

    /// Formats the reason. Quotes, backslashes and control characters are replaced, since it is
    /// written as one quoted line.
    pub fn new(reason: fmt::Arguments<'_>) -> Self {
        let mut failure = Self { text: [0; Self::MAX], len: 0 };
        // Fails only if the text is truncated, which is documented.
        let _ = failure.write_fmt(reason);
        failure
    }
}

impl Write for Failure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = match character {
                '"' => '\'',
                '\\' => '/',
                control if control.is_control() => ' ',
                other => other,
            };
            let room = self.text.get_mut(self.len..).unwrap_or_default();
            if room.len() < character.len_utf8() {
                return Err(fmt::Error);
            }
            self.len += character.encode_utf8(room).len();
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.get(..self.len).unwrap_or_default();
        formatter.write_str(str::from_utf8(text).unwrap_or("?"))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(format_args!("{error}"))
    }
}

/// Fails a test point unless the condition holds: `ensure!(condition, "reason {}", value)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::tap::Failure::new(format_args!($($reason)+)));
        }
    };
}

#[cfg(test)]
#[path = "tap_test.rs"]
mod tests;
