//! Histograms: how a value finds its bucket, and what can be told from buckets.
//!
//! Buckets are log-linear: values below 32 have one each, and every power of two above is cut into 32 of equal width.
//! So a bucket is at most 1/32 of its values wide, and its middle is within 1/64 (1.6 %) of each of them, over the
//! whole range of `u64`.

use super::{
    layout::{
        GROUP, GROUP_LINES, HISTOGRAM_GROUPS, HISTOGRAM_LEAST, HISTOGRAM_LOST, HISTOGRAM_MOST, HISTOGRAM_SUM,
        LINE,
    },
    memory,
    words::{Shared, Word, Words, place},
};

/// Buckets for each power of two.
pub(crate) const SUB_BUCKETS: usize = 32;

/// Number of buckets.
pub const BUCKETS: usize = (64 - SUB_BUCKETS.trailing_zeros() as usize + 1) * SUB_BUCKETS;

/// Number of the bucket that `value` falls into.
pub(crate) fn bucket(value: u64) -> usize {
    let bits = SUB_BUCKETS.trailing_zeros();
    let top = 63 - (value | 1).leading_zeros();
    if top < bits {
        return place(value);
    }
    let shift = top - bits;
    // What remains is 32 to 63: the leading one counts the group on.
    shift as usize * SUB_BUCKETS + place(value >> shift)
}

/// Least value of bucket number `bucket`; `None` past the last one.
#[must_use]
pub fn least_of(bucket: usize) -> Option<u64> {
    if bucket >= BUCKETS {
        return None;
    }
    let Some(above) = (bucket / SUB_BUCKETS).checked_sub(1) else { return Some(bucket as u64) };
    Some(((SUB_BUCKETS + bucket % SUB_BUCKETS) as u64) << above)
}

/// Greatest value of bucket number `bucket`.
#[must_use]
pub fn most_of(bucket: usize) -> u64 {
    least_of(bucket + 1).map_or(u64::MAX, |next| next - 1)
}

/// Records `value` in the histogram whose cells begin at `head`.
pub(crate) fn record<W: Shared>(words: &W, head: Word, value: u64) {
    let mut batch = Batch::new(head);
    batch.add(words, value, 1);
    batch.write(words);
}

/// Values for one histogram. Each is counted in its bucket at once; sum, least and greatest value are written for all of
/// them together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    head: Word,
    sum: u64,
    least: u64,
    most: u64,
    /// The last value's group of buckets, and the word where it begins.
    group: (usize, Word),
}

impl Batch {
    /// An empty one for the histogram whose cells begin at `head`.
    pub(crate) fn new(head: Word) -> Self {
        Self { head, sum: 0, least: u64::MAX, most: 0, group: (usize::MAX, head) }
    }

    /// Adds `value`, so many times.
    #[inline]
    pub(crate) fn add<W: Shared>(&mut self, words: &W, value: u64, times: u64) {
        self.sum = self.sum.wrapping_add(value.wrapping_mul(times));
        self.least = self.least.min(value);
        self.most = self.most.max(value);
        let bucket = bucket(value);
        let found = self.group.0 == bucket / GROUP || self.find(words, bucket / GROUP);
        let counter =
            if found { self.group.1.after(bucket % GROUP) } else { self.head.after(HISTOGRAM_LOST) };
        counter.add(words, times);
    }

    /// Looks for group number `group` of buckets. Without memory for it values are counted as ones that have no bucket.
    #[inline(never)]
    fn find<W: Shared>(&mut self, words: &W, group: usize) -> bool {
        match memory::refer(words, self.head.at + HISTOGRAM_GROUPS + group, GROUP_LINES) {
            Some(line) => {
                self.group = (group, Word { at: line * LINE, ..self.head });
                true
            }
            None => false,
        }
    }

    /// Writes what is left to be written. Of an empty one that is nothing.
    pub(crate) fn write<W: Shared>(&self, words: &W) {
        self.head.after(HISTOGRAM_SUM).add(words, self.sum);
        // Seldom true once some values are there, and then a read is all it takes.
        if words.load(self.head.at + HISTOGRAM_LEAST) < !self.least {
            words.raise(self.head.at + HISTOGRAM_LEAST, !self.least);
        }
        if words.load(self.head.at + HISTOGRAM_MOST) < self.most {
            words.raise(self.head.at + HISTOGRAM_MOST, self.most);
        }
    }
}

/// What a histogram holds, summed up over rows.
#[derive(Debug, Clone)]
pub struct Distribution {
    counts: Box<[u64]>,
    /// Values that found no memory for their bucket; they count, and nothing else is known of them.
    lost: u64,
    sum: u64,
    least: u64,
    most: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), lost: 0, sum: 0, least: u64::MAX, most: 0 }
    }
}

impl Distribution {
    /// Empties it, to be used again.
    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        (self.lost, self.sum, self.least, self.most) = (0, 0, u64::MAX, 0);
    }

    /// Adds the histogram whose cells begin at word `head`.
    pub(crate) fn add<W: Words + ?Sized>(&mut self, words: &W, head: usize) {
        self.sum = self.sum.wrapping_add(words.load(head + HISTOGRAM_SUM));
        self.least = self.least.min(!words.load(head + HISTOGRAM_LEAST));
        self.most = self.most.max(words.load(head + HISTOGRAM_MOST));
        self.lost += words.load(head + HISTOGRAM_LOST);
        for (number, counts) in self.counts.chunks_mut(GROUP).enumerate() {
            let group = place(words.load(head + HISTOGRAM_GROUPS + number));
            if group == 0 || group >= words.size() / LINE {
                continue;
            }
            for (at, count) in counts.iter_mut().enumerate() {
                *count = count.wrapping_add(words.load(group * LINE + at));
            }
        }
    }

    /// Adds one value, as recording it would.
    #[cfg(test)]
    fn put(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.sum = self.sum.wrapping_add(value);
        self.least = self.least.min(value);
        self.most = self.most.max(value);
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(self.lost, |sum, count| sum.wrapping_add(*count))
    }

    /// Sum of all values, wrapping around at 2^64.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The least value; `None` when there are none.
    #[must_use]
    pub fn least(&self) -> Option<u64> {
        (self.least <= self.most).then_some(self.least)
    }

    /// The greatest value; `None` when there are none.
    #[must_use]
    pub fn most(&self) -> Option<u64> {
        (self.least <= self.most).then_some(self.most)
    }

    /// Counts of all buckets, from the least values on.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The value that a share of `quantile` (0 to 1) of all values does not exceed, within 1.6 %; `None` when there
    /// are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let (least, most) = (self.least()?, self.most()?);
        let known = self.count().wrapping_sub(self.lost);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among counted values: at most `known`, at least 1"
        )]
        let rank = ((known as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).clamp(1, known.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let low = least_of(bucket)?;
                return Some((low + (most_of(bucket) - low) / 2).clamp(least, most));
            }
        }
        Some(most)
    }

    /// Takes in all values of `other` as well.
    pub fn include(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.wrapping_add(*more);
        }
        self.lost = self.lost.wrapping_add(other.lost);
        self.sum = self.sum.wrapping_add(other.sum);
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// What was recorded since `earlier` was read.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(&earlier.counts) {
            *count = count.wrapping_sub(*before);
        }
        since.lost = since.lost.wrapping_sub(earlier.lost);
        since.sum = since.sum.wrapping_sub(earlier.sum);
        since
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BUCKETS, Distribution, bucket, least_of, most_of};

    #[test]
    fn buckets_at_the_edges() {
        assert_eq!(BUCKETS, 1920);
        assert_eq!([0, 1, 31, 32, 33, 63, 64, 65, 66].map(bucket), [0, 1, 31, 32, 33, 63, 64, 64, 65]);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(least_of(BUCKETS), None);
        assert_eq!(most_of(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut values = Distribution::default();
        assert_eq!((values.quantile(0.5), values.least()), (None, None));
        (1..=1000).for_each(|value| values.put(value * 1000));
        assert_eq!((values.count(), values.least(), values.most()), (1000, Some(1000), Some(1_000_000)));
        for (quantile, exact) in [(0.0, 1000.0), (0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = values.quantile(quantile).expect("values") as f64;
            assert!((found - exact).abs() / exact <= 1.0 / 64.0, "{quantile}: {found}");
        }
    }

    #[test]
    fn a_difference_has_only_what_is_new() {
        let mut values = Distribution::default();
        values.put(7);
        let before = values.clone();
        values.put(9);
        let since = values.since(&before);
        assert_eq!((since.count(), since.sum(), since.quantile(1.0)), (1, 9, Some(9)));
    }

    #[test]
    fn values_of_several_are_one_distribution() {
        let (mut one, mut other, mut all) =
            (Distribution::default(), Distribution::default(), Distribution::default());
        for value in 0..100 {
            (if value % 3 == 0 { &mut one } else { &mut other }).put(value);
            all.put(value);
        }
        one.include(&other);
        assert_eq!((one.counts(), one.sum()), (all.counts(), all.sum()));
        assert_eq!((one.least(), one.most(), one.count()), (Some(0), Some(99), 100));
        one.include(&Distribution::default());
        assert_eq!((one.least(), one.most(), one.count()), (Some(0), Some(99), 100));
    }

    proptest! {
        #[test]
        fn every_value_is_in_its_bucket(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let bucket = bucket(value);
            let (low, high) = (least_of(bucket).expect("a bucket"), most_of(bucket));
            prop_assert!(low <= value && value <= high);
            let middle = low + (high - low) / 2;
            prop_assert!(value.abs_diff(middle) as f64 <= value as f64 / 64.0);
        }
    }
}
