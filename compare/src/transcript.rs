//! The output of a guest, normalised for comparison, and where two transcripts first differ.
//!
//! Left out, since they differ between runs or machines without any fault:
//!
//! - terminal escapes, carriage returns, blanks at the end of a line, empty lines;
//! - the firmware's banner (OpenSBI), which only QEMU's machine has;
//! - the kernel's time stamps, `[    0.123456] `;
//! - in a TAP transcript: diagnostics (`# …`, YAML blocks). For a test point that is known to fail
//!   (TODO), only number and name are compared, and it is counted;
//! - latencies that a guest reports;
//! - lines that contain a text given by the user (`--ignore`).

use serde::{Deserialize, Serialize};

use crate::latency::Latency;
use crate::plan::Line;

/// A line of a transcript that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its number among all lines, from 1.
    pub number: usize,
    /// The text to compare.
    pub text: String,
}

/// Where two transcripts first differ. A line is `None` if its transcript ends before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The line's number in this transcript, from 1.
    pub line: Option<usize>,
    /// This line.
    pub here: Option<String>,
    /// The line of the other transcript.
    pub there: Option<String>,
}

/// The test points of a guest, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// Passed, not skipped.
    pub passed: u32,
    /// Skipped.
    pub skipped: u32,
    /// Failed, and known to fail (TODO).
    pub known: u32,
    /// Failed.
    pub failed: u32,
}

/// The first line after the firmware's banner (OpenSBI), if there is one.
pub fn firmware_end(lines: &[Line]) -> usize {
    let is = |line: &Line, start: &str| line.text.trim_start().starts_with(start);
    let begin = lines.iter().position(|line| is(line, "OpenSBI v"));
    let Some(begin) = begin else { return 0 };
    // The banner ends with the lines about the boot hart.
    let last = lines.iter().rposition(|line| is(line, "Boot HART "));
    last.filter(|last| *last > begin).map_or(0, |last| last + 1)
}

/// Whether it follows the Test Anything Protocol.
fn is_tap(lines: &[Line]) -> bool {
    lines
        .iter()
        .any(|line| line.text.trim_end().starts_with("TAP version "))
}

/// The lines of a guest's output that are compared.
pub fn comparable(lines: &[Line], ignore: &[String]) -> Vec<Said> {
    let tap = is_tap(lines);
    let mut yaml = false;
    let mut said = Vec::new();
    for (index, line) in lines.iter().enumerate().skip(firmware_end(lines)) {
        let text = without_time(without_escapes(&line.text).trim_end()).to_owned();
        if tap {
            match text.trim_start() {
                "---" => yaml = true,
                "..." if std::mem::take(&mut yaml) => continue,
                _ => {}
            }
            if yaml || text.starts_with('#') {
                continue;
            }
        }
        let ignored = ignore.iter().any(|part| text.contains(part));
        if !text.is_empty() && !ignored && Latency::parse(&text).is_none() {
            said.push(Said { number: index + 1, text });
        }
    }
    said
}

/// Where `here` first differs from `there`; else the number of lines that count as equal only
/// because a test is known to fail.
pub fn difference(here: &[Said], there: &[Said]) -> Result<usize, Difference> {
    let mut known = 0;
    for index in 0..here.len().max(there.len()) {
        let (a, b) = (here.get(index), there.get(index));
        match (a, b) {
            (Some(a), Some(b)) if a.text == b.text => {}
            (Some(a), Some(b)) if same_point(&a.text, &b.text) => known += 1,
            _ => {
                return Err(Difference {
                    line: a.map(|said| said.number),
                    here: a.map(|said| said.text.clone()),
                    there: b.map(|said| said.text.clone()),
                });
            }
        }
    }
    Ok(known)
}

/// Two results of one test, at least one of which is marked as known to fail.
fn same_point(a: &str, b: &str) -> bool {
    let of = |line: &str| {
        let (name, directive) = point(line)?
            .1
            .split_once(" # ")
            .unwrap_or((point(line)?.1, ""));
        Some((name.to_owned(), directive.starts_with("TODO")))
    };
    match (of(a), of(b)) {
        (Some((a, a_known)), Some((b, b_known))) => a == b && (a_known || b_known),
        _ => false,
    }
}

/// Whether a line is a passed or failed test point, and what follows: its number, name and
/// directive.
fn point(line: &str) -> Option<(bool, &str)> {
    match line.strip_prefix("not ok ") {
        Some(rest) => Some((false, rest)),
        None => line.strip_prefix("ok ").map(|rest| (true, rest)),
    }
}

/// The test points of a transcript, if it has a plan.
pub fn points(lines: &[Line]) -> Option<Points> {
    if !is_tap(lines) {
        return None;
    }
    let mut points = Points::default();
    for (passed, rest) in lines.iter().filter_map(|line| point(line.text.trim_end())) {
        match (passed, rest.split_once(" # ").map(|it| it.1)) {
            (_, Some(it)) if it.starts_with("SKIP") => points.skipped += 1,
            (false, Some(it)) if it.starts_with("TODO") => points.known += 1,
            (true, _) => points.passed += 1,
            (false, _) => points.failed += 1,
        }
    }
    Some(points)
}

/// A line without the time stamp of Linux, `[    0.123456] `.
fn without_time(line: &str) -> &str {
    let stamp = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    match stamp {
        Some((time, text)) if time.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

/// A line without control sequences (ECMA-48 CSI and OSC) and other control bytes except tab.
fn without_escapes(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        if character != '\u{1b}' {
            if !character.is_control() || character == '\t' {
                kept.push(character);
            }
            continue;
        }
        match rest.next() {
            // The final byte of a control sequence is one of these.
            Some('[') => drop(rest.by_ref().find(|it| ('@'..='~').contains(it))),
            // A command to the terminal ends with BEL or ESC \.
            Some(']') => drop(rest.by_ref().find(|it| matches!(it, '\u{7}' | '\\'))),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
#[path = "transcript_test.rs"]
mod tests;
