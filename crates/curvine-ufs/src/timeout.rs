//! Decorator: every attempt has a deadline.

use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;

use crate::policy::{SLOW, time_for};
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

pub(crate) struct TimeoutUfs<U> {
    inner: U,
    timeout: Duration,
}

impl<U: Ufs> TimeoutUfs<U> {
    pub(crate) fn new(inner: U, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    async fn bound<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        Self::bound_to(self.timeout, attempt).await
    }

    /// Work of the store's own, such as copies.
    async fn bound_slow<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        Self::bound_to(self.timeout + SLOW, attempt).await
    }

    /// So many bytes are sent.
    async fn bound_for<T>(&self, bytes: u64, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        Self::bound_to(self.timeout + time_for(bytes), attempt).await
    }

    async fn bound_to<T>(timeout: Duration, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, "the under file system did not answer in time")
                .with("seconds", timeout.as_secs_f64()))
        })
    }
}

impl<U: Ufs> Ufs for TimeoutUfs<U> {
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
