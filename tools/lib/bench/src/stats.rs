//! What is said of many measurements of one thing.
use serde::{Deserialize, Serialize};

/// Percentiles of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median.
    pub p50: f64,
    /// A tenth lies below.
    pub p10: f64,
    /// A tenth lies above.
    pub p90: f64,
    /// Measurements.
    pub n: usize,
}

impl Summary {
    /// Of at least one measurement; without any there is none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            p50: percentile(&sorted, 1, 2),
            p10: percentile(&sorted, 1, 10),
            p90: percentile(&sorted, 9, 10),
            n: sorted.len(),
        })
    }
}

/// The value below which `part` of `whole` of the sorted samples lie, between neighbours on a straight line.
fn percentile(sorted: &[f64], part: usize, whole: usize) -> f64 {
    let scaled = (sorted.len() - 1) * part;
    let (index, rest) = (scaled / whole, scaled % whole);
    let below = sorted[index];
    let above = sorted.get(index + 1).copied().unwrap_or(below);
    below + (above - below) * ratio(rest, whole)
}

fn ratio(a: usize, b: usize) -> f64 {
    // Both are far below 2^32.
    f64::from(u32::try_from(a).unwrap_or(u32::MAX))
        / f64::from(u32::try_from(b).unwrap_or(u32::MAX))
}

/// A seeded source of orders: SplitMix64. What it must be is repeatable and unrelated to the machine's rhythm.
#[derive(Debug)]
pub struct Shuffler(u64);

impl Shuffler {
    /// The same seed gives the same orders.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fisher and Yates; the bias of the remainder is below one in 2^50 for what is shuffled here.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let bound = u64::try_from(end + 1).unwrap_or(u64::MAX);
            let at = usize::try_from(self.next() % bound).unwrap_or(0);
            items.swap(end, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let samples: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.p10, summary.p50, summary.p90), (1.0, 5.0, 9.0));
        let two = Summary::of(&[3.0, 1.0]).unwrap();
        assert_eq!(two.p50, 2.0);
        assert!((two.p90 - 2.8).abs() < 1e-9);
    }

    #[test]
    fn one_measurement_is_all_its_percentiles_and_none_has_none() {
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.p10, one.p50, one.p90, one.n), (7.0, 7.0, 7.0, 1));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn an_outlier_does_not_move_the_median() {
        let mut samples = vec![1.0; 39];
        samples.push(1e9);
        assert_eq!(Summary::of(&samples).unwrap().p50, 1.0);
    }

    #[test]
    fn orders_repeat_by_seed_and_lose_nothing() {
        let order = |seed| {
            let mut items: Vec<u8> = (0..20).collect();
            Shuffler::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<u8>>());
    }

    #[test]
    fn every_place_is_taken_by_everybody_about_as_often() {
        let mut shuffler = Shuffler::new(42);
        let mut first = [0; 4];
        for _ in 0..4000 {
            let mut items = [0, 1, 2, 3];
            shuffler.shuffle(&mut items);
            first[items[0]] += 1;
        }
        assert!(
            first.iter().all(|&count| (900..1100).contains(&count)),
            "{first:?}"
        );
    }
}
