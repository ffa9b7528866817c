//! The median of a few values, and their spread.

use serde::{Deserialize, Serialize};

/// The values of several runs for one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub least: u64,
    /// The median; of an even number of values the lower one.
    pub median: u64,
    /// The most.
    pub most: u64,
}

impl Spread {
    /// The spread of these values, if there are any.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Option<Spread> {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let middle = values.len().checked_sub(1)? / 2;
        Some(Spread {
            least: *values.first()?,
            median: *values.get(middle)?,
            most: *values.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        let spread = |values: &[u64]| Spread::of(values.iter().copied());
        let of = |least, median, most| Some(Spread { least, median, most });
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[7]), of(7, 7, 7));
        assert_eq!(spread(&[9, 1, 5]), of(1, 5, 9));
        assert_eq!(spread(&[9, 1, 5, 6]), of(1, 5, 9));
    }
}
