//! Latencies of requests, from their submission until the driver sees them completed.

/// The times of up to `N` requests.
pub struct Latencies<const N: usize> {
    ticks: [u32; N],
    count: usize,
}

/// Percentiles of the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Number of times.
    pub count: usize,
    /// Median, in ticks.
    pub p50: u32,
    /// 90th percentile, in ticks.
    pub p90: u32,
    /// 99th percentile, in ticks.
    pub p99: u32,
    /// Maximum, in ticks.
    pub max: u32,
}

impl<const N: usize> Default for Latencies<N> {
    fn default() -> Self {
        Self { ticks: [0; N], count: 0 }
    }
}

impl<const N: usize> Latencies<N> {
    /// Removes all times.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Records a request's ticks. Times after the `N`th are dropped.
    pub fn note(&mut self, ticks: u64) {
        if let Some(place) = self.ticks.get_mut(self.count) {
            *place = u32::try_from(ticks).unwrap_or(u32::MAX);
            self.count += 1;
        }
    }

    /// The percentiles, each of which is a recorded time; `None` without any.
    pub fn percentiles(&mut self) -> Option<Percentiles> {
        let ticks = self.ticks.get_mut(..self.count)?;
        ticks.sort_unstable();
        let count = ticks.len();
        let within = |percent: usize| {
            let rank = (count * percent).div_ceil(100);
            ticks.get(rank.checked_sub(1)?).copied()
        };
        Some(Percentiles {
            count,
            p50: within(50)?,
            p90: within(90)?,
            p99: within(99)?,
            max: within(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_so_many_do_not_exceed() {
        let mut latencies = Latencies::<200>::default();
        (1..=200).rev().for_each(|ticks| latencies.note(ticks));
        let expected = Percentiles { count: 200, p50: 100, p90: 180, p99: 198, max: 200 };
        assert_eq!(latencies.percentiles(), Some(expected));
    }

    #[test]
    fn one_time_is_every_percentile_and_none_has_none() {
        let mut latencies = Latencies::<1>::default();
        assert_eq!(latencies.percentiles(), None);
        latencies.note(u64::MAX);
        latencies.note(1);
        let all = latencies.percentiles().unwrap();
        assert_eq!((all.count, all.p50, all.max), (1, u32::MAX, u32::MAX));
        latencies.clear();
        assert_eq!(latencies.percentiles(), None);
    }
}
