//! Decorator: counts every attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use curvine_types::{ErrorKind, Result};
use futures::future::BoxFuture;

use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

pub(crate) struct MeteredUfs {
    inner: Arc<dyn Ufs>,
    counters: Arc<Counters>,
}

impl MeteredUfs {
    pub(crate) fn new(inner: Arc<dyn Ufs>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }

    async fn count<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        self.counters.requests.fetch_add(1, Relaxed);
        // An attempt that is dropped at its deadline counts as a failed one.
        let mut running = Running { counters: &self.counters, failed: true };
        self.counters.in_flight.fetch_add(1, Relaxed);
        let outcome = attempt.await;
        running.failed = match &outcome {
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::VersionMismatch),
        };
        outcome
    }
}

struct Running<'a> {
    counters: &'a Counters,
    failed: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(1, Relaxed);
        let failed: &AtomicU64 = &self.counters.errors;
        failed.fetch_add(u64::from(self.failed), Relaxed);
    }
}

impl Ufs for MeteredUfs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(self.count(self.inner.stat(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(self.count(self.inner.list(prefix, start_after, limit)))
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.count(self.inner.fetch(wanted, sink)).await?;
            self.counters.bytes.fetch_add(wanted.len, Relaxed);
            Ok(())
        })
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        Box::pin(async move {
            let object = self.count(self.inner.store(key, source, when)).await?;
            self.counters.written.fetch_add(object.size, Relaxed);
            Ok(object)
        })
    }

    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.count(self.inner.abort(key, upload)))
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.count(self.inner.make_directory(key)))
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.count(self.inner.remove_directory(key)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.count(self.inner.delete(key)))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        Box::pin(self.count(self.inner.rename(from, to, expect)))
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.count(self.inner.rename_directory(from, to, limit)))
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        Box::pin(self.count(self.inner.survey(prefix, from, limit)))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
