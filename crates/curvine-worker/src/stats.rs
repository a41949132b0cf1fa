//! What a worker counts; it goes to the master with each heartbeat.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(crate) struct Stats {
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Reads of cached content that needed nothing from a store.
    pub hits: AtomicU64,
    /// Reads that had to wait for a store.
    pub misses: AtomicU64,
    /// Ranges that were served without being kept, for want of space.
    pub not_kept: AtomicU64,
}

impl Stats {
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}
