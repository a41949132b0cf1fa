//! Decorator: so many requests at once, and a deadline over waiting, attempts and pauses together.

use std::time::Duration;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::policy::Policy;
use crate::{Counters, Expect, ListPage, Object, Ufs};

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
        let call = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            call.await
        };
        tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Ufs, "the under file system did not answer in time")
                .with("seconds", self.timeout.as_secs_f64()))
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

    fn read<'a>(&'a self, key: &'a str, offset: u64, len: u64, expect: &'a Expect) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.bound(self.inner.read(key, offset, len, expect)))
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}
