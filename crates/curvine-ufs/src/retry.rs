//! Decorator: tries again after failures that may pass, with growing pauses and within a budget.
//!
//! Always: each request that comes here may be repeated: it changes nothing, or leads to the same end when it is made again. What is still failing at the end is a `Ufs`
//! error, so that nobody above takes it for a failure of Curvine's own and tries once more.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tracing::debug;

use crate::policy::Policy;
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

/// Credit is counted in tenths of a retry.
const TENTHS: u32 = 10;

/// How often something is tried again, and how much credit is left for that.
pub(crate) struct Retries {
    policy: Policy,
    credit: AtomicU32,
}

impl Retries {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self { policy: *policy, credit: AtomicU32::new(policy.retry_budget.saturating_mul(TENTHS)) }
    }

    /// Makes attempts until one succeeds or fails for good, at most `most` after the first one; the last one's outcome, and how many
    /// were made.
    pub(crate) async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        most: u32,
        counters: &Counters,
        attempt: impl Fn() -> F,
    ) -> (Result<T>, u32) {
        let mut tried = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    self.earn();
                    return (Ok(value), tried + 1);
                }
                Err(error) => error,
            };
            if !may_pass(error.kind()) || tried >= most.min(self.policy.retries) || !self.spend() {
                return (Err(error), tried + 1);
            }
            debug!(%error, attempt = tried + 1, "request to an under file system failed, trying again");
            tokio::time::sleep(self.pause(tried)).await;
            counters.retries.fetch_add(1, Relaxed);
            tried += 1;
        }
    }

    /// Between half and all of the doubled pause.
    fn pause(&self, tried: u32) -> std::time::Duration {
        let full = self.policy.backoff.saturating_mul(1 << tried.min(16)).min(self.policy.backoff_max);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    fn earn(&self) {
        let most = self.policy.retry_budget.saturating_mul(TENTHS);
        let _ = self.credit.fetch_update(Relaxed, Relaxed, |credit| (credit < most).then(|| credit + 1));
    }

    fn spend(&self) -> bool {
        self.credit.fetch_update(Relaxed, Relaxed, |credit| credit.checked_sub(TENTHS)).is_ok()
    }
}

pub(crate) struct RetryUfs<U> {
    inner: U,
    retries: Retries,
}

impl<U: Ufs> RetryUfs<U> {
    pub(crate) fn new(inner: U, policy: &Policy) -> Self {
        Self { inner, retries: Retries::new(policy) }
    }

    async fn repeat<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        match self.retries.run(u32::MAX, self.counters(), attempt).await {
            (Err(error), attempts) if may_pass(error.kind()) => {
                Err(Error::new(ErrorKind::Ufs, "gave up on the under file system")
                    .with("attempts", attempts)
                    .caused_by(error))
            }
            (outcome, _) => outcome,
        }
    }
}

/// Failures that the store adapters mark as passing.
fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::TimedOut)
}

impl<U: Ufs> Ufs for RetryUfs<U> {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(self.repeat(move || self.inner.stat(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(self.repeat(move || self.inner.list(prefix, start_after, limit)))
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.repeat(move || self.inner.fetch(wanted, sink)))
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        Box::pin(self.repeat(move || self.inner.store(key, source, when)))
    }

    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.repeat(move || self.inner.abort(key, upload)))
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.repeat(move || self.inner.make_directory(key)))
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.repeat(move || self.inner.remove_directory(key)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.repeat(move || self.inner.delete(key)))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        Box::pin(self.repeat(move || self.inner.rename(from, to, expect)))
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.repeat(move || self.inner.rename_directory(from, to, limit)))
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        Box::pin(self.repeat(move || self.inner.survey(prefix, from, limit)))
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}
