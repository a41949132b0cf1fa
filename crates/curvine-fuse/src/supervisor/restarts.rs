//! When the next serving process starts: at once after one that has served, later and later after ones that die at once.
//!
//! Always: it is tried again for ever; the mount stays, and an operator is told why it does not work.

use std::time::{Duration, Instant};

/// Who has served for so long was no failure.
const GOOD: Duration = Duration::from_millis(200);
/// Failures in a row that are taken for bad luck.
const AT_ONCE: u32 = 3;
/// Failures in a row after which somebody is needed.
const HOPELESS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Well below a lease time: the session of the mount must outlive the pause, or what is open for writing fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts failures.
#[derive(Debug, Default)]
pub struct Restarts {
    failures: u32,
}

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub pause: Duration,
    /// How often it failed, if an operator should look.
    pub hopeless_after: Option<u32>,
}

impl Restarts {
    /// A serving process died; `served` since then, if it ever did.
    pub fn died(&mut self, served: Option<Instant>) -> Verdict {
        if served.is_some_and(|since| since.elapsed() >= GOOD) {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        let doublings = self.failures.saturating_sub(AT_ONCE).min(16);
        let pause = match doublings {
            0 => Duration::ZERO,
            doublings => (FIRST_PAUSE * 2_u32.pow(doublings - 1)).min(LONGEST_PAUSE),
        };
        Verdict { pause, hopeless_after: (self.failures >= HOPELESS).then_some(self.failures) }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_served_is_replaced_at_once_and_a_crash_loop_slows_down() {
        let mut restarts = Restarts::default();
        let at_once = Verdict { pause: Duration::ZERO, hopeless_after: None };
        assert_eq!((0..3).map(|_| restarts.died(None)).collect::<Vec<_>>(), [at_once; 3]);
        let pauses: Vec<Duration> = (0..4).map(|_| restarts.died(Some(Instant::now())).pause).collect();
        assert_eq!(pauses, [100, 200, 400, 800].map(Duration::from_millis));
        let later = (0..100).fold(at_once, |_, _| restarts.died(None));
        assert_eq!(later, Verdict { pause: LONGEST_PAUSE, hopeless_after: Some(107) });
        let before = Instant::now().checked_sub(GOOD).unwrap();
        assert_eq!(restarts.died(Some(before)), at_once);
        assert_eq!(restarts.failures, 0);
    }
}
