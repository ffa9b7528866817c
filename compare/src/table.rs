//! The comparison as text: one line per measure, one column per way, and one group of columns per
//! clock.

use crate::counts::{self, Count};
use crate::latency::Latency;
use crate::report::{Measured, Report, Verdict};
use crate::spread::Spread;
use crate::transcript::{Difference, Points};

/// A measure, and its value for each way that ran.
pub struct Row {
    /// What is measured, with its unit.
    pub label: String,
    /// In the order of the ways. An empty cell is unknown.
    pub cells: Vec<Option<String>>,
}

/// The lines of the table, without its head.
pub fn rows(report: &Report) -> Vec<Row> {
    let ways: Vec<&Measured> = report.ran().collect();
    let row = |label: &str, of: &dyn Fn(&Measured) -> Option<String>| Row {
        label: label.into(),
        cells: ways.iter().map(|way| of(way)).collect(),
    };
    let time = |of: fn(&crate::report::Times) -> Option<Spread>| {
        move |way: &Measured| way.times.as_ref().and_then(of).map(millis)
    };
    let marker = match &report.setting.marker {
        Some(marker) => format!("to {marker:?}, ms"),
        None => "to the last line, ms".into(),
    };
    let mut rows = vec![
        row("result", &|way| way.outcome.map(|it| it.text())),
        row("transcript", &|way| way.verdict.as_ref().map(verdict)),
        row("tests", &|way| way.points.map(points)),
        row("to the first line, ms", &time(|it| it.first)),
        row(&marker, &time(|it| it.marker)),
        row("to the end, ms", &time(|it| it.exit)),
    ];
    let counted: Vec<_> = ways
        .iter()
        .map(|way| {
            let reported = way.latencies.iter().map(reported);
            let counted = way.counts.as_ref().map(counts::lines).unwrap_or_default();
            reported.chain(counted).collect::<Vec<_>>()
        })
        .collect();
    let mut labels: Vec<&str> = Vec::new();
    for count in counted.iter().flatten() {
        if !labels.contains(&count.label.as_str()) {
            labels.push(&count.label);
        }
    }
    rows.extend(labels.into_iter().map(|label| {
        Row {
            label: label.into(),
            cells: counted
                .iter()
                .map(|way| {
                    let count = way.iter().find(|count| count.label == label);
                    count.map(|count| count.text.clone())
                })
                .collect(),
        }
    }));
    rows.retain(|row| row.cells.iter().any(Option::is_some));
    rows
}

fn reported(latency: &Latency) -> Count {
    Count {
        label: format!("guest: {} {}, µs", latency.name, latency.names()),
        text: latency.values(),
    }
}

/// The table, what differs, and what did not run.
pub fn show(report: &Report) -> String {
    let ways: Vec<&Measured> = report.ran().collect();
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    let heads = ways.iter().map(|way| way.name.clone()).collect();
    lines.push((String::new(), heads));
    for row in rows(report) {
        let cells = row.cells.into_iter();
        lines.push((
            row.label,
            cells.map(|cell| cell.unwrap_or("–".into())).collect(),
        ));
    }
    let wide = |text: &str| text.chars().count();
    let first = lines.iter().map(|line| wide(&line.0)).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..ways.len())
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.1.get(column));
            cells.map(|cell| wide(cell)).max().unwrap_or(0)
        })
        .collect();
    // A group's title stands over its columns.
    let mut head = format!("{:first$}", "");
    let mut column = 0;
    for group in ways.chunk_by(|a, b| a.clock == b.clock) {
        let Some(way) = group.first() else { continue };
        let title = way.clock.title();
        let columns = column..column + group.len();
        let width = |widths: &[usize]| {
            let of = widths.get(columns.clone()).unwrap_or_default();
            of.iter().sum::<usize>() + 2 * (group.len() - 1)
        };
        let missing = wide(title).saturating_sub(width(&widths));
        if let Some(last) = widths.get_mut(columns.end - 1) {
            *last += missing;
        }
        head += &format!(" │ {title:<0$}", width(&widths));
        column = columns.end;
    }
    let mut text = head.trim_end().to_owned() + "\n";
    for (label, cells) in &lines {
        let mut line = format!("{label:<first$}");
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let clock = |at: usize| ways.get(at).map(|way| way.clock);
            let begins = index == 0 || clock(index) != clock(index - 1);
            line += if begins { " │ " } else { "  " };
            line += &format!("{cell:<width$}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text + &notes(report).join("\n") + "\n"
}

/// Notes below the table: differences, ways that did not run and why, and how to read the times.
pub fn notes(report: &Report) -> Vec<String> {
    let mut notes = vec![String::new()];
    for way in report.ran() {
        let name = &way.name;
        match &way.verdict {
            Some(Verdict::Differs(difference)) => {
                notes.push(format!("{name}: {}", told(difference)));
            }
            Some(Verdict::Unstable { run, difference }) => {
                notes.push(format!(
                    "{name}, run {run} compared with run 1: {}",
                    told(difference)
                ));
            }
            _ => {}
        }
    }
    for way in report.ways.iter() {
        if let Some(why) = &way.missing {
            notes.push(format!(
                "not run: {} ({}): {why}",
                way.name,
                way.clock.title()
            ));
        }
    }
    let clocks: std::collections::BTreeSet<_> = report.ran().map(|way| way.clock).collect();
    if clocks.len() > 1 {
        notes.push(
            "Times under different headings are from different clocks and are not compared.".into(),
        );
    }
    let ran = report.ran().count();
    notes.push(match (ran, report.agree) {
        (0, _) => "Nothing ran.".into(),
        (1, true) => "Only one way ran: there is nothing to compare it with.".into(),
        (_, true) => format!("All {ran} that ran agree."),
        (_, false) => "They DIFFER.".into(),
    });
    notes
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Reference => "the reference".into(),
        Verdict::Equal { known: 0 } => "equal".into(),
        Verdict::Equal { known } => format!("equal but {known} known"),
        Verdict::Differs(Difference { line: Some(line), .. }) => format!("DIFFERS, line {line}"),
        Verdict::Differs(_) => "ENDS EARLY".into(),
        Verdict::Unstable { run, .. } => format!("VARIES, run {run}"),
    }
}

fn told(difference: &Difference) -> String {
    let says = |text: &Option<String>| match text {
        Some(text) => format!("{text:?}"),
        None => "nothing".into(),
    };
    let place = match difference.line {
        Some(line) => format!("line {line} is"),
        None => "it prints".into(),
    };
    format!(
        "{place} {}, expected {}",
        says(&difference.here),
        says(&difference.there)
    )
}

fn points(points: Points) -> String {
    let mut text = format!("{} ok", points.passed);
    for (count, what) in [
        (points.failed, "FAILED"),
        (points.known, "known to fail"),
        (points.skipped, "skipped"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// A spread of microseconds in milliseconds.
pub fn millis(spread: Spread) -> String {
    let [least, median, most] =
        [spread.least, spread.median, spread.most].map(|it| it as f64 / 1000.0);
    let digits = usize::from(most < 100.0);
    if spread.least == spread.most {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
