//! Dropping clean copies on request.

use curvine_types::Result;

use crate::recovery::cached_bytes;
use crate::store::BlockStore;
use crate::types::*;

impl BlockStore {
    /// Drops a clean copy; the bytes that it had. 0 for what is not here, and for content of which this may be the only copy.
    pub fn free(&self, key: ContentKey) -> Result<u64> {
        let Some(content) = self.get(key) else { return Ok(0) };
        self.tiers[content.tier].check()?;
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
