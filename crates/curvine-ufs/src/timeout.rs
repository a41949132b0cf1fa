//! Decorator: every attempt has a deadline.

use std::time::Duration;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;

use crate::{Counters, Expect, ListPage, Object, Ufs};

pub(crate) struct TimeoutUfs<U> {
    inner: U,
    timeout: Duration,
}

impl<U: Ufs> TimeoutUfs<U> {
    pub(crate) fn new(inner: U, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    async fn bound<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.timeout, attempt).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, "the under file system did not answer in time")
                .with("seconds", self.timeout.as_secs_f64()))
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

    fn read<'a>(&'a self, key: &'a str, offset: u64, len: u64, expect: &'a Expect) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.bound(self.inner.read(key, offset, len, expect)))
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}
