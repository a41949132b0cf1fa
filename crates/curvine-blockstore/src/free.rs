//! Dropping clean copies on request.

use std::path::Path;
use std::time::{Duration, SystemTime};

use curvine_types::Result;

use crate::recovery::cached_bytes;
use crate::store::BlockStore;
use crate::types::*;

impl BlockStore {
    /// Drops a clean copy; the bytes that it had. 0 for what is not here, and for content of which this may be the only copy.
    pub fn free(&self, key: ContentKey) -> Result<u64> {
        self.free_older(key, Duration::ZERO)
    }

    /// The same, only if the copy was begun so long ago; one whose file system does not say when stays as long as it is read.
    pub fn free_older(&self, key: ContentKey, older: Duration) -> Result<u64> {
        let Some(content) = self.get(key) else { return Ok(0) };
        let tier = &self.tiers[content.tier];
        tier.check()?;
        if !older.is_zero() && age(&tier.path_of(key)).is_none_or(|age| age < older) {
            return Ok(0);
        }
        let _sync = content.sync.lock();
        let mut state = content.state.write();
        if state.deleted || state.kind != ContentKind::Cached {
            return Ok(0);
        }
        let bytes = cached_bytes(&state);
        self.remove(&content, &mut state)?;
        Ok(bytes)
    }
}

/// How long ago a file was made, or written last where the file system does not say that.
fn age(path: &Path) -> Option<Duration> {
    let metadata = std::fs::metadata(path).ok()?;
    SystemTime::now().duration_since(metadata.created().or_else(|_| metadata.modified()).ok()?).ok()
}
