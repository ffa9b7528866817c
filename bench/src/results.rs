//! Reduces the records of many starts to one number per metric: the content of `bench/results`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{Metrics, name};
use crate::protocol::Kind;
use crate::record::{Counts, Measure, Measured, Record};
use crate::scale;

/// All results of one run of `bench`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The commit of this project.
    pub commit: String,
    /// The emulator's own name and version.
    pub emulator: String,
    /// The host's kernel.
    pub kernel: String,
    /// The guest's kernel, if it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_kernel: Option<String>,
    /// The number of starts per time, which is their median.
    pub seeds: u64,
    /// Metrics by the name of the case: the VMM, the host, and special options.
    pub cases: BTreeMap<String, Metrics>,
}

/// Returns all metrics in the order of the table.
pub fn order() -> Vec<String> {
    let counts = |what: &str| {
        Counts::default()
            .named()
            .map(|(name, _)| format!("{what}: {name}"))
    };
    let mut names: Vec<String> = [
        name::BINARY,
        name::RUN,
        name::OUTPUT,
        name::INIT,
        name::EXIT,
        name::PSS,
        name::ANONYMOUS,
    ]
    .map(str::to_owned)
    .into();
    names.extend(counts("boot"));
    for kind in Kind::ALL {
        names.push(speed(kind));
        names.extend(counts(kind.name()));
        names.extend(SEEN.map(|what| format!("{}: {what}", kind.name())));
    }
    names.extend(scale::order());
    names
}

/// Returns the metric of a test's speed.
fn speed(kind: Kind) -> String {
    let unit = if kind.is_stream() { "MiB/s" } else { "µs" };
    format!("{}: {unit}", kind.name())
}

/// What the guest counts.
const SEEN: [&str; 2] = ["interrupts", "frames"];

/// Returns the medians of `records`: times from the starts that measured times, counts from the
/// others.
pub fn summarize(records: &[Record]) -> Metrics {
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |name: String, value: f64| samples.entry(name).or_default().push(value);
    for record in records {
        let null = record
            .tests
            .get(Kind::Null.name())
            .copied()
            .unwrap_or_default();
        let tests = Kind::ALL.into_iter().filter(|&kind| kind != Kind::Null);
        let tests = tests.filter_map(|kind| Some((kind, record.tests.get(kind.name())?)));
        match record.measure {
            Measure::Time => {
                add(name::RUN.into(), record.times.run as f64 / 1e6);
                add(name::OUTPUT.into(), record.times.output as f64 / 1e6);
                add(name::INIT.into(), record.times.init as f64 / 1e6);
                add(name::EXIT.into(), record.times.exit as f64 / 1e6);
                add(name::PSS.into(), record.memory.pss as f64);
                add(name::ANONYMOUS.into(), record.memory.anonymous as f64);
                tests.for_each(|(kind, test)| add(speed(kind), time(kind, test, &null)));
            }
            Measure::Count => {
                for (name, value) in record.boot.named() {
                    add(format!("boot: {name}"), value as f64);
                }
                for (kind, test) in tests {
                    for (name, value) in test.counts.since(null.counts).named() {
                        let each = value as f64 / test.operations.max(1) as f64;
                        add(format!("{}: {name}", kind.name()), each);
                    }
                    let seen = [test.interrupts.saturating_sub(null.interrupts), test.frames];
                    for (name, value) in SEEN.into_iter().zip(seen) {
                        let each = value as f64 / test.operations.max(1) as f64;
                        add(format!("{}: {name}", kind.name()), each);
                    }
                }
            }
        }
    }
    samples
        .into_iter()
        .map(|(name, values)| (name, median(values)))
        .collect()
}

fn time(kind: Kind, test: &Measured, null: &Measured) -> f64 {
    let nanoseconds = test.nanoseconds.saturating_sub(null.nanoseconds) as f64;
    let operations = test.operations.max(1) as f64;
    match kind.is_stream() {
        true => operations / nanoseconds * 1e9,
        false => nanoseconds / operations / 1e3,
    }
}

/// Returns the median, or the mean of the middle two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Times;
    use crate::smaps::Memory;

    fn record(measure: Measure, run: u64) -> Record {
        let counts = |exits| Counts { exits, ..Counts::default() };
        let test = |operations, nanoseconds, exits| Measured {
            operations,
            nanoseconds,
            counts: counts(exits),
            ..Measured::default()
        };
        Record {
            measure,
            times: Times { run, ..Times::default() },
            memory: Memory::default(),
            boot: counts(20_000),
            tests: BTreeMap::from([
                ("null".to_owned(), test(1, 1000, 10)),
                ("read4k".to_owned(), test(100, 5_001_000, 310)),
                ("read1m".to_owned(), test(10, 10_001_000, 10)),
            ]),
        }
    }

    #[test]
    fn times_are_medians_without_the_protocol() {
        let metrics = summarize(&[1, 9, 2].map(|run| record(Measure::Time, run * 1_000_000)));
        assert_eq!(metrics[name::RUN], 2.0);
        assert_eq!(metrics["read4k: µs"], 50.0);
        assert_eq!(metrics["read1m: MiB/s"], 1000.0);
        assert!(!metrics.contains_key("boot: exits"));
    }

    #[test]
    fn counts_are_for_one_operation_without_the_protocol() {
        let metrics = summarize(&[record(Measure::Count, 1)]);
        assert_eq!(metrics["boot: exits"], 20_000.0);
        assert_eq!(metrics["read4k: exits"], 3.0);
        assert!(!metrics.contains_key("read4k: µs") && !metrics.contains_key("null: exits"));
    }

    #[test]
    fn every_metric_has_its_place_in_the_order() {
        let order = order();
        let found = summarize(&[record(Measure::Time, 1), record(Measure::Count, 1)]);
        assert!(found.keys().all(|name| order.contains(name)));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
