//! One measurement: how much was done, in how long.

use std::time::{Duration, Instant};

/// What one run of a work came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Bytes or operations, by the row's unit.
    pub amount: f64,
    pub elapsed: Duration,
}

impl Measure {
    /// Amount that was done since `begun`.
    pub fn since(begun: Instant, amount: u64) -> Self {
        Self { amount: amount as f64, elapsed: begun.elapsed() }
    }

    /// Amount per second.
    pub fn rate(&self) -> f64 {
        self.amount / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The middle of some values, of an even number the mean of the two middle ones; `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_does_not_move_the_median() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1000.0, 2.0]), Some(3.0));
        assert_eq!(median(&[4.0, 2.0]), Some(3.0));
    }

    #[test]
    fn a_rate_is_amount_over_time() {
        let measure = Measure { amount: 10.0, elapsed: Duration::from_millis(500) };
        assert_eq!(measure.rate(), 20.0);
    }
}
