//! Compares two results: what changed.

use crate::metrics::more_is_better;
use crate::results::{Results, order};
use crate::table::{align, number};

/// Smaller relative differences are ignored.
pub const TOLERANCE: f64 = 0.02;

/// Smaller absolute differences are ignored: counts per request such as 0.02 exits.
const SMALLEST: f64 = 0.05;

/// A metric that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The case.
    pub case: String,
    /// The metric.
    pub metric: String,
    /// The old value.
    pub old: f64,
    /// The new value.
    pub new: f64,
    /// Whether that is an improvement.
    pub better: bool,
}

/// Returns all metrics of cases in both results that changed by more than [`TOLERANCE`].
pub fn moved(old: &Results, new: &Results) -> Vec<Moved> {
    let mut moved = Vec::new();
    for (case, metrics) in &new.cases {
        let Some(before) = old.cases.get(case) else {
            continue;
        };
        for metric in order() {
            let (Some(&old), Some(&new)) = (before.get(&metric), metrics.get(&metric)) else {
                continue;
            };
            let difference = (new - old).abs();
            if difference > old.abs() * TOLERANCE && difference > SMALLEST {
                moved.push(Moved {
                    better: (new > old) == more_is_better(&metric),
                    case: case.clone(),
                    metric,
                    old,
                    new,
                });
            }
        }
    }
    moved
}

/// Formats the changes as text, one line each.
pub fn show(moved: &[Moved]) -> String {
    if moved.is_empty() {
        return format!("nothing moved by more than {} %\n", TOLERANCE * 100.0);
    }
    let row = |moved: &Moved| {
        let change = match moved.old {
            0.0 => "new".to_owned(),
            old => format!("{:+.1} %", (moved.new / old - 1.0) * 100.0),
        };
        vec![
            format!("{}: {}", moved.case, moved.metric),
            number(moved.old),
            number(moved.new),
            change,
            if moved.better { "better" } else { "worse" }.to_owned(),
        ]
    };
    align(&moved.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn results(time: f64, speed: f64, exits: f64) -> Results {
        let metrics = [
            ("read4k: µs", time),
            ("read1m: MiB/s", speed),
            ("read4k-32: exits", exits),
        ];
        let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
        Results { cases: BTreeMap::from([("ours".to_owned(), metrics)]), ..Results::default() }
    }

    #[test]
    fn what_moved_by_more_than_two_percent_is_named() {
        let moved = moved(&results(50.0, 1000.0, 0.2), &results(51.5, 1100.0, 0.21));
        let summary: Vec<_> = moved
            .iter()
            .map(|moved| (moved.metric.as_str(), moved.better))
            .collect();
        assert_eq!(summary, [("read4k: µs", false), ("read1m: MiB/s", true)]);
        assert!(show(&moved).contains("+3.0 %   worse"), "{}", show(&moved));
    }

    #[test]
    fn small_changes_and_foreign_cases_are_not() {
        let mut new = results(50.5, 1010.0, 0.2);
        new.cases.insert("theirs".to_owned(), BTreeMap::new());
        assert!(moved(&results(50.0, 1000.0, 0.2), &new).is_empty());
        assert!(show(&[]).starts_with("nothing moved"));
    }
}
