//! Decorator: so many requests at once, and a deadline over waiting, attempts and pauses together.

use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::policy::{Policy, SLOW, time_for};
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

pub(crate) struct LimitUfs<U> {
    inner: U,
    turns: Semaphore,
    timeout: Duration,
}

impl<U: Ufs> LimitUfs<U> {
    pub(crate) fn new(inner: U, policy: &Policy) -> Self {
        Self { inner, turns: Semaphore::new(policy.concurrency.max(1)), timeout: policy.timeout }
    }

    async fn bound<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.bound_to(self.timeout, call).await
    }

    async fn bound_slow<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.bound_to(self.timeout + 2 * SLOW, call).await
    }

    async fn bound_for<T>(&self, bytes: u64, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.bound_to(self.timeout + 2 * time_for(bytes), call).await
    }

    async fn bound_to<T>(&self, timeout: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let call = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            call.await
        };
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Ufs, "the under file system did not answer in time")
                .with("seconds", timeout.as_secs_f64()))
        })
    }
}

impl<U: Ufs> Ufs for LimitUfs<U> {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(self.bound(self.inner.stat(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(self.bound(self.inner.list(prefix, start_after, limit)))
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.bound(self.inner.fetch(wanted, sink)))
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        Box::pin(self.bound_for(source.size(), self.inner.store(key, source, when)))
    }

    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.bound(self.inner.abort(key, upload)))
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.bound(self.inner.make_directory(key)))
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.bound(self.inner.remove_directory(key)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.bound(self.inner.delete(key)))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        Box::pin(self.bound_slow(self.inner.rename(from, to, expect)))
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.bound_slow(self.inner.rename_directory(from, to, limit)))
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        Box::pin(self.bound_slow(self.inner.survey(prefix, from, limit)))
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}
