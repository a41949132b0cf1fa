//! How long and how often a store is asked, and how much at once.

use std::time::Duration;

/// Slowest upload that is still waited for, bytes a second.
const SLOWEST: u64 = 1 << 20;
/// What is waited beyond the timeout for work that the store does by itself, such as copying objects.
pub(crate) const SLOW: Duration = Duration::from_secs(60);

/// What is waited beyond the timeout for so many bytes to be sent.
pub(crate) fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// The longest that `Ufs::store` takes for so many bytes.
pub fn store_timeout(policy: &Policy, bytes: u64) -> Duration {
    policy.timeout + 2 * time_for(bytes)
}

/// Limits of one under file system.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Deadline of one attempt.
    pub attempt_timeout: Duration,
    /// Deadline of a call with all its attempts and its waiting for a turn.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub retries: u32,
    /// Pause before the first retry; doubled for each further one, with jitter.
    pub backoff: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Retries that may be outstanding as credit: a failing store is not hammered. Ten successes earn one.
    pub retry_budget: u32,
    /// Requests at once; more wait for their turn.
    pub concurrency: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            retries: 4,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            retry_budget: 64,
            concurrency: 64,
        }
    }
}
