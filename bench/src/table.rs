//! Results as aligned text: one line per metric, one column per case.

use crate::results::{self, Results};

/// Formats `results` as a table. Metrics without a value are left out.
pub fn show(results: &Results) -> String {
    let mut rows = vec![vec![String::new()]];
    let names = results.cases.keys().cloned();
    rows.iter_mut().for_each(|row| row.extend(names.clone()));
    for metric in results::order() {
        let values: Vec<_> = results
            .cases
            .values()
            .map(|case| case.get(&metric))
            .collect();
        if values
            .iter()
            .any(|value| value.is_some_and(|&value| value != 0.0))
        {
            let shown = values
                .iter()
                .map(|value| value.map_or("–".to_owned(), |&value| number(value)));
            rows.push([metric].into_iter().chain(shown).collect());
        }
    }
    align(&rows)
}

/// Aligns columns: the first to the left, the others to the right.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line += &match index {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Formats a number with three significant digits and thousands separators.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let count = whole.chars().count();
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (count - index) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    if part.is_empty() {
        grouped
    } else {
        format!("{grouped}.{part}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn numbers_show_what_counts() {
        let shown = [0.0, 3.416, 20.84, 149.6, 20_709.0, 1_070_000.0, -1234.0].map(number);
        assert_eq!(
            shown,
            [
                "0.00",
                "3.42",
                "20.8",
                "150",
                "20 709",
                "1 070 000",
                "-1 234"
            ]
        );
    }

    #[test]
    fn a_case_without_a_metric_has_a_dash() {
        let case = |metrics: &[(&str, f64)]| {
            metrics
                .iter()
                .map(|&(name, value)| (name.to_owned(), value))
                .collect()
        };
        let results = Results {
            cases: BTreeMap::from([
                (
                    "ours".to_owned(),
                    case(&[("binary, KiB", 1500.0), ("read4k: µs", 50.0)]),
                ),
                ("theirs".to_owned(), case(&[("read4k: µs", 74.25)])),
            ]),
            ..Results::default()
        };
        let expected =
            "              ours  theirs\nbinary, KiB  1 500       –\nread4k: µs    50.0    74.2\n";
        assert_eq!(show(&results), expected);
    }
}
