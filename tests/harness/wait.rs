//! Waiting with a deadline, and calls that must come back in time.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Between two questions; it only bounds how often is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer; panics with `what` at the deadline.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    match try_until(limit, &mut ask) {
        Some(answer) => answer,
        None => panic!("{what}: not within {limit:?}"),
    }
}

/// Asks until there is an answer or the time is up.
pub fn try_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Runs a call that may hang, on a thread of its own; panics with `what` if it does not come back in time.
/// The thread is left behind; it ends when the cluster is torn down.
#[track_caller]
pub fn within<T: Send + 'static>(what: &str, limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(call()));
    match result.recv_timeout(limit) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: no answer within {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: panicked"),
    }
}
