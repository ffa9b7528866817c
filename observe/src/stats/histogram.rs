//! Histograms. Each bucket is a quarter as wide as the power of two at or below its start.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::report;

/// Values below this have one bucket each. Above it there are this many buckets per power of two.
const PARTS: u64 = 4;
const BUCKETS: usize = 208;

/// A histogram. One thread at a time adds to it; any thread may read it.
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

/// Adds to a counter that has one writer, so no other store can be lost.
pub(super) fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(value), Relaxed);
}

impl Histogram {
    pub(super) fn new() -> Histogram {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket(value)) {
            add(bucket, 1);
        }
        add(&self.sum, value);
        if value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }

    /// `unit` converts the values to the unit of the report. It must be monotonic.
    pub(super) fn report(&self, unit: impl Fn(u64) -> u64) -> report::Histogram {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets: Vec<_> = (0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| (unit(last_of(bucket)), count))
            .collect();
        report::Histogram {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: unit(self.sum.load(Relaxed)),
            max: unit(self.max.load(Relaxed)),
            buckets,
        }
    }
}

/// The largest value with its own bucket; larger ones count there. It is 104 days in nanoseconds,
/// and the last integer up to which f64 represents every integer.
const LARGEST: u64 = (1 << 53) - 1;

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let bucket = match value.min(LARGEST) {
        small @ 0..PARTS => small,
        // The exponent and the top two bits of the mantissa of an f64 are the power of two and the
        // quarter. This takes three instructions; finding the highest bit takes dozens on a CPU
        // without Zbb.
        large => ((large as f64).to_bits() >> 50) - (1023 + 1) * PARTS,
    };
    // Below BUCKETS.
    usize::try_from(bucket).unwrap_or(0)
}

/// The largest value of a bucket that is not the last one.
fn last_of(bucket: u64) -> u64 {
    match bucket {
        ..PARTS => bucket,
        _ => {
            let width = 1 << (bucket / PARTS - 1);
            (PARTS + bucket % PARTS) * width + width - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_or_after_it() {
        let values = (0..5000).chain((12..53).flat_map(|log| {
            let power = 1_u64 << log;
            [
                power - 1,
                power,
                power + 1,
                power + power / 2,
                power + (power - 1),
            ]
        }));
        for value in values {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS, "{value}");
            let (before, last) = (bucket.checked_sub(1), last_of(bucket as u64));
            assert!(value <= last, "{value} in the bucket up to {last}");
            if let Some(before) = before {
                assert!(value > last_of(before as u64), "{value}");
            }
            assert!(last - value <= value / 4, "{value}: {last} is too far");
        }
        assert_eq!(last_of(BUCKETS as u64 - 1), LARGEST);
        assert_eq!(
            [LARGEST, LARGEST + 1, u64::MAX].map(bucket),
            [BUCKETS - 1; 3]
        );
    }

    #[test]
    fn values_are_reported_in_the_unit_given() {
        let histogram = Histogram::new();
        [3, 35, 35]
            .iter()
            .for_each(|value| histogram.record(*value));
        let report = histogram.report(|value| value * 100);
        assert_eq!((report.sum, report.max), (7300, 3500));
        assert_eq!(report.buckets, [(300, 1), (3900, 2)]);
        assert_eq!(report.quantile(0.9), Some(3500));
    }

    #[test]
    fn quantiles_are_within_a_quarter_and_never_above_the_largest() {
        let histogram = Histogram::new();
        (1..=1000).for_each(|value| histogram.record(value));
        let report = histogram.report(|value| value);
        assert_eq!(
            (report.count, report.sum, report.max),
            (1000, 500_500, 1000)
        );
        let median = report.quantile(0.5).unwrap();
        assert!((500..625).contains(&median), "{median}");
        assert_eq!(report.quantile(1.0), Some(1000));
        assert_eq!(Histogram::new().report(|value| value).quantile(0.5), None);
    }
}
