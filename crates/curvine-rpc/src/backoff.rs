//! Pauses between attempts: doubled each time, with jitter, never beyond a deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::Limits;

pub(crate) struct Backoff {
    min: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(limits: &Limits) -> Self {
        let min = limits.backoff_min.max(Duration::from_millis(1));
        Self { min, next: min, max: limits.backoff_max }
    }

    /// How long to wait when there is `left` time: between half and all of the step, and never more than half of `left`,
    /// so that one more attempt can be made.
    fn step(&mut self, left: Duration) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        pause.min(left / 2)
    }

    /// Pauses; false, at once, if there is no time left for another attempt.
    pub(crate) async fn pause(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < self.min * 2 {
            return false;
        }
        tokio::time::sleep(self.step(left)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_limit_and_leave_time_for_an_attempt() {
        let limits = Limits::default();
        let mut backoff = Backoff::new(&limits);
        let mut bound = limits.backoff_min;
        for _ in 0..10 {
            let pause = backoff.step(Duration::from_secs(60));
            assert!(pause >= bound / 2 && pause <= bound, "{pause:?} of {bound:?}");
            bound = (bound * 2).min(limits.backoff_max);
        }
        assert!(backoff.step(Duration::from_millis(10)) <= Duration::from_millis(5));
    }
}
