//! Listings that are half told: kept between two parts, so that a directory is read once and not once for each part.
//!
//! Always: at most so many are kept, each for a limited time; one that is gone only costs a new start.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the caller may take between two parts.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Listings kept for one file system.
const KEPT_MAX: usize = 32;

/// Kept listings by where they go on.
pub(crate) struct Cursors<C> {
    kept: Mutex<Vec<Kept<C>>>,
}

struct Kept<C> {
    prefix: String,
    start_after: String,
    since: Instant,
    cursor: C,
}

impl<C> Cursors<C> {
    pub(crate) fn new() -> Self {
        Self { kept: Mutex::new(Vec::new()) }
    }

    /// Takes out the cursor that goes on there.
    pub(crate) fn take(&self, prefix: &str, start_after: &str) -> Option<C> {
        let mut kept = self.lock();
        let position = kept.iter().position(|item| item.prefix == prefix && item.start_after == start_after)?;
        Some(kept.remove(position).cursor)
    }

    /// Keeps a cursor; the oldest one makes room.
    pub(crate) fn keep(&self, prefix: &str, start_after: &str, cursor: C) {
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Kept {
            prefix: prefix.to_string(),
            start_after: start_after.to_string(),
            since: Instant::now(),
            cursor,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept<C>>> {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.retain(|item| item.since.elapsed() < AGE_MAX);
        kept
    }
}
