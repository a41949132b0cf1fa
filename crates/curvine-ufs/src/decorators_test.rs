//! Retry, timeout, limit and counting around a store that does as the test says.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::*;

/// Answers with the next of its outcomes; `None`: never.
struct Script {
    outcomes: Mutex<VecDeque<Option<ErrorKind>>>,
    counters: Counters,
    running: AtomicUsize,
    running_most: AtomicUsize,
}

impl Script {
    fn new(outcomes: &[Option<ErrorKind>]) -> Arc<Self> {
        Arc::new(Self {
            outcomes: Mutex::new(outcomes.iter().copied().collect()),
            counters: Counters::default(),
            running: AtomicUsize::new(0),
            running_most: AtomicUsize::new(0),
        })
    }
}

impl Ufs for Script {
    fn stat<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async {
            let next = self.outcomes.lock().unwrap().pop_front();
            match next {
                Some(Some(kind)) => Err(Error::new(kind, "as the test says")),
                Some(None) => std::future::pending().await,
                None => Ok(None),
            }
        })
    }

    fn list<'a>(&'a self, _prefix: &'a str, _start_after: &'a str, _limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(async {
            let running = self.running.fetch_add(1, SeqCst) + 1;
            self.running_most.fetch_max(running, SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.running.fetch_sub(1, SeqCst);
            Ok(ListPage::default())
        })
    }

    fn fetch<'a>(&'a self, _wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        sink.take(0, Bytes::from_static(b"four"));
        Box::pin(std::future::ready(Ok(())))
    }

    fn store<'a>(&'a self, _: &'a str, _: &'a dyn Source, _: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        Box::pin(std::future::pending())
    }

    fn abort<'a>(&'a self, key: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        self.make_directory(key)
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.stat(key).await.map(|_| ()) })
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.make_directory(key)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.make_directory(key)
    }

    fn rename<'a>(&'a self, _: &'a str, _: &'a str, _: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        Box::pin(std::future::pending())
    }

    fn rename_directory<'a>(&'a self, _: &'a str, _: &'a str, _: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(std::future::pending())
    }

    fn survey<'a>(&'a self, _: &'a str, _: &'a SurveyMark, _: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        Box::pin(std::future::pending())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn decorated(script: &Arc<Script>, policy: Policy) -> impl Ufs {
    let counters = Arc::new(Counters::default());
    let metered = metered::MeteredUfs::new(script.clone(), counters);
    limit::LimitUfs::new(
        retry::RetryUfs::new(timeout::TimeoutUfs::new(metered, policy.attempt_timeout), &policy),
        &policy,
    )
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_tried_again() {
    let script = Script::new(&[Some(ErrorKind::Unavailable), Some(ErrorKind::Overloaded), None]);
    let ufs = decorated(&script, Policy::default());
    assert_eq!(ufs.stat("f").await.unwrap(), None);
    let counts = ufs.counters().snapshot();
    assert_eq!((counts.requests, counts.retries, counts.errors, counts.in_flight), (4, 3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn answers_are_not_tried_again() {
    for kind in [ErrorKind::NotFound, ErrorKind::VersionMismatch, ErrorKind::PermissionDenied, ErrorKind::Config] {
        let script = Script::new(&[Some(kind)]);
        let ufs = decorated(&script, Policy::default());
        assert_eq!(ufs.stat("f").await.unwrap_err().kind(), kind);
        assert_eq!(ufs.counters().snapshot().requests, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_is_a_ufs_error_after_the_last_attempt() {
    let script = Script::new(&[Some(ErrorKind::Unavailable); 100]);
    let ufs = decorated(&script, Policy { retries: 3, ..Policy::default() });
    let error = ufs.stat("f").await.unwrap_err();
    assert_eq!((error.kind(), error.get("attempts")), (ErrorKind::Ufs, Some("4")));
    assert!(error.to_string().contains("as the test says"));
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_their_budget_and_come_back_with_success() {
    let script = Script::new(&[Some(ErrorKind::Unavailable); 7]);
    let ufs = decorated(&script, Policy { retries: 4, retry_budget: 5, ..Policy::default() });
    assert_eq!(ufs.stat("f").await.unwrap_err().get("attempts"), Some("5"));
    assert_eq!(ufs.stat("f").await.unwrap_err().get("attempts"), Some("2"), "one retry was left");
    for _ in 0..10 {
        ufs.stat("f").await.unwrap();
    }
    script.outcomes.lock().unwrap().push_back(Some(ErrorKind::Unavailable));
    ufs.stat("f").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_ends_at_the_deadline() {
    let script = Script::new(&[None; 100]);
    let policy = Policy::default();
    let ufs = decorated(&script, policy);
    let begun = tokio::time::Instant::now();
    assert_eq!(ufs.stat("f").await.unwrap_err().kind(), ErrorKind::Ufs);
    assert!(begun.elapsed() <= policy.timeout + Duration::from_millis(10), "{:?}", begun.elapsed());
    assert_eq!(ufs.counters().snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_at_once_than_allowed() {
    let script = Script::new(&[]);
    let ufs = decorated(&script, Policy { concurrency: 3, ..Policy::default() });
    let calls: Vec<_> = (0..20).map(|_| ufs.list("", "", 1)).collect();
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(script.running_most.load(SeqCst), 3);
}
