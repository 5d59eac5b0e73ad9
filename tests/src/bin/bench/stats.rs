//! Figures of a few runs: percentiles, and the ratio of two things measured in turns.
use std::time::Duration;

/// Resamples for the interval; beyond a few thousand it moves no more.
const RESAMPLES: usize = 10_000;

/// By nearest rank: a figure that was measured.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

pub fn millis(values: &[Duration]) -> Vec<f64> {
    values.iter().map(|value| value.as_secs_f64() * 1e3).collect()
}

/// The geometric mean of a/b over pairs, with its 95 % interval: the percentile bootstrap over whole pairs (Efron and
/// Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). The seed is fixed: the same data, the same answer.
pub struct Ratio {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

pub fn ratio(pairs: &[(f64, f64)]) -> Ratio {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / logs.len() as f64;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| mean(&mut (0..logs.len()).map(|_| logs[(xorshift(&mut state) % logs.len() as u64) as usize])))
        .collect();
    resampled.sort_by(f64::total_cmp);
    let at = |share: f64| resampled[((RESAMPLES - 1) as f64 * share) as usize].exp();
    Ratio { mean: mean(&mut logs.iter().copied()).exp(), low: at(0.025), high: at(0.975) }
}

/// Marsaglia's xorshift64 (2003): enough to choose pairs.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}× [{:.3}, {:.3}]", self.mean, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((median(&values), percentile(&values, 95.0), percentile(&values, 100.0)), (10.0, 19.0, 20.0));
        assert_eq!(percentile(&[3.0], 95.0), 3.0);
    }

    #[test]
    fn a_ratio_is_that_of_its_pairs_and_its_interval_holds_it() {
        let same = ratio(&[(2.0, 1.0), (20.0, 10.0)]);
        assert!((same.mean - 2.0).abs() < 1e-9 && (same.low - 2.0).abs() < 1e-9 && (same.high - 2.0).abs() < 1e-9);
        let spread = ratio(&[(1.0, 1.0), (4.0, 1.0)]);
        assert!((spread.mean - 2.0).abs() < 1e-9 && spread.low < 2.0 && spread.high > 2.0);
    }
}
