//! How long attempts took, as a histogram.

/// How long attempts took.
///
/// Kept in buckets of which each is 1.4 times as wide as the one before, so a quantile is at most a
/// fifth off; below 4 ms it is exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Attempts by bucket.
    buckets: Vec<u64>,
}

/// Buckets: up to 2^26 ms, which is beyond the longest timeout; the last one is open.
pub(super) const BUCKETS: u8 = 52;

/// The bucket of a time: 0 for 0 ms, then two to each doubling.
pub(super) fn bucket(millis: u64) -> u8 {
    if millis == 0 {
        return 0;
    }
    let octave = millis.ilog2();
    // The upper half begins at 2^octave times the root of 2.
    let is_upper = u128::from(millis) * u128::from(millis) >= 2 << (2 * octave);
    (1 + 2 * octave + u32::from(is_upper)).min(u32::from(BUCKETS) - 1) as u8
}

/// The whole milliseconds in a bucket, from the first to the last.
fn range(bucket: u8) -> (u64, u64) {
    let first = |bucket: u8| {
        if bucket == 0 {
            return 0;
        }
        let (octave, is_upper) = (u32::from(bucket - 1) / 2, (bucket - 1) % 2 == 1);
        if is_upper { (2_u128 << (2 * octave)).isqrt() as u64 + 1 } else { 1 << octave }
    };
    (first(bucket), (first(bucket + 1) - 1).max(first(bucket)))
}

impl Latency {
    pub(super) fn add(&mut self, bucket: u8, count: u64) {
        let bucket = usize::from(bucket.min(BUCKETS - 1));
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += count;
    }

    /// How many attempts are counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time in milliseconds within which this share of the attempts ended (0.5: the median, 0.99:
    /// all but one in a hundred), at most a fifth off. `None` where none is counted.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = (share.clamp(0.0, 1.0) * count as f64).ceil().max(1.0) as u64;
        let mut before = 0;
        for (bucket, inside) in (0..).zip(&self.buckets) {
            if before + inside >= rank {
                let (first, last) = range(bucket);
                return Some(first.midpoint(last));
            }
            before += inside;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut expect = 0;
        for millis in 0..2_000_000 {
            let found = bucket(millis);
            let (first, last) = range(found);
            assert!((first..=last).contains(&millis), "{millis} ms in bucket {found}");
            assert!(found >= expect && found <= expect + 2, "{millis} ms");
            expect = found;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_a_fifth_off() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for millis in 1..=1000 {
            latency.add(bucket(millis), 1);
        }
        for (share, expect) in [(0.01, 10.0), (0.5, 500.0), (0.9, 900.0), (0.99, 990.0)] {
            let found = latency.quantile(share).unwrap() as f64;
            assert!((found / expect - 1.0).abs() <= 0.2, "{share}: {found} for {expect}");
        }
        let mut small = Latency::default();
        small.add(bucket(3), 1);
        assert_eq!((small.quantile(0.0), small.quantile(1.0)), (Some(3), Some(3)));
    }
}
