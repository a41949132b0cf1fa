//! What a file system asked of its store. Always: each attempt counts, also those that a retry repeated.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rising counts, readable at any time.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountersSnapshot {
    /// Attempts made: stats, parts of listings, reads.
    pub requests: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// Bytes of content stored.
    pub written: u64,
    /// Attempts that failed; "not found" and "changed" are answers, no failures.
    pub errors: u64,
    /// Attempts that repeated a failed one.
    pub retries: u64,
    /// Requests that wait for the store now.
    pub in_flight: u64,
    /// Keys that listings left out, because no directory entry can be named so or because of what they are.
    pub skipped: u64,
}

impl Counters {
    /// The counts now.
    pub fn snapshot(&self) -> CountersSnapshot {
        CountersSnapshot {
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            written: self.written.load(Relaxed),
            errors: self.errors.load(Relaxed),
            retries: self.retries.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
        }
    }
}
