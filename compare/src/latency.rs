//! The latencies that a guest reports about its own requests, in a line such as
//!
//! ```text
//! # latency disk-both: p50 31.2, p90 40.0, p99 55.1, max 80.3 us of 320 requests
//! ```
//!
//! The `# ` is for guests that print TAP. Any percentiles are accepted, in microseconds and
//! ascending; `max` is the hundredth. The text after `us` is ignored.

use serde::{Deserialize, Serialize};

use crate::plan::Line;

/// Limits on kinds of requests, and percentiles per kind: the guest controls what it prints.
const MOST: usize = 16;

/// The latencies of one kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The guest's name for them.
    pub name: String,
    /// Percentiles and their microseconds, both ascending.
    pub percentiles: Vec<(f64, f64)>,
}

impl Latency {
    /// Parses a line; `None` if it is not a report.
    pub fn parse(line: &str) -> Option<Latency> {
        let line = line.trim();
        let line = line.strip_prefix('#').unwrap_or(line).trim_start();
        let (name, rest) = line.strip_prefix("latency ")?.split_once(':')?;
        let (list, _) = rest.split_once(" us")?;
        let percentiles: Option<Vec<_>> = list.split(',').take(MOST + 1).map(percentile).collect();
        let percentiles = percentiles.filter(|all| all.len() <= MOST && rises(all))?;
        let name = name.trim().to_owned();
        (!name.is_empty()).then_some(Latency { name, percentiles })
    }

    /// The names of the percentiles: `p50 / p99 / max`.
    pub fn names(&self) -> String {
        let name = |(share, _): &(f64, f64)| match *share {
            100.0 => "max".to_owned(),
            share => format!("p{share}"),
        };
        joined(self.percentiles.iter().map(name))
    }

    /// Their microseconds, in the same order.
    pub fn values(&self) -> String {
        joined(self.percentiles.iter().map(|(_, us)| format!("{us:.1}")))
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" / ")
}

/// `p99 55.1` or `max 80.3`.
fn percentile(text: &str) -> Option<(f64, f64)> {
    let (name, value) = text.trim().split_once(' ')?;
    let share = match name {
        "max" => 100.0,
        _ => name.strip_prefix('p')?.parse().ok()?,
    };
    let us: f64 = value.trim().parse().ok()?;
    let sound = (0.0..=100.0).contains(&share) && us.is_finite() && us >= 0.0;
    sound.then_some((share, us))
}

fn rises(percentiles: &[(f64, f64)]) -> bool {
    percentiles.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
}

/// The reports of one run: the last line per kind.
pub fn reported(lines: &[Line]) -> Vec<Latency> {
    let mut reported: Vec<Latency> = Vec::new();
    for latency in lines.iter().filter_map(|line| Latency::parse(&line.text)) {
        let full = reported.len() == MOST;
        match reported.iter_mut().find(|it| it.name == latency.name) {
            Some(before) => *before = latency,
            None if full => {}
            None => reported.push(latency),
        }
    }
    reported
}

/// The median over several runs, for each percentile that the first run reports.
pub fn medians(runs: &[Vec<Latency>]) -> Vec<Latency> {
    let mut medians = runs.first().cloned().unwrap_or_default();
    for latency in &mut medians {
        let name = &latency.name;
        let same = runs.iter().flatten().filter(|it| it.name == *name);
        let same: Vec<_> = same.flat_map(|it| &it.percentiles).collect();
        for (share, median) in &mut latency.percentiles {
            let of = same.iter().filter(|it| it.0 == *share);
            let mut values: Vec<f64> = of.map(|it| it.1).collect();
            values.sort_by(f64::total_cmp);
            *median = values.get(values.len() / 2).copied().unwrap_or(*median);
        }
    }
    medians
}

#[cfg(test)]
#[path = "latency_test.rs"]
mod tests;
